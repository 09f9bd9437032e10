//! A function's standard output and error, line by line and within bounds.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line, in bytes; what is longer comes in pieces of this length.
pub const LINE_MAX: usize = 8 * 1024;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Reads lines until the end of file; a last one without a line feed counts. A function that
/// writes faster than `line` takes them has to wait.
pub(crate) async fn lines(
    mut input: impl AsyncRead + Unpin,
    mut line: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; LINE_MAX];
    let mut held = 0;
    loop {
        let count = input.read(&mut buffer[held..]).await?;
        let end = held + count;
        let mut start = 0;
        while let Some(length) = buffer[start..end].iter().position(|byte| *byte == b'\n') {
            line(&buffer[start..start + length]);
            start += length + 1;
        }
        let last = count == 0 && start < end;
        if last || (start == 0 && end == LINE_MAX) {
            line(&buffer[start..end]);
            start = end;
        }
        if count == 0 {
            return Ok(());
        }
        buffer.copy_within(start..end, 0);
        held = end - start;
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, lines};

    async fn collect(input: &[u8]) -> Vec<Vec<u8>> {
        let mut collected = Vec::new();
        lines(input, |line| collected.push(line.to_vec())).await.unwrap();
        collected
    }

    #[tokio::test]
    async fn lines_come_whole_and_the_last_needs_no_line_feed() {
        assert_eq!(collect(b"one\n\nthree\nrest").await, [&b"one"[..], b"", b"three", b"rest"]);
        assert_eq!(collect(b"one\n").await, [b"one"]);
    }

    #[tokio::test]
    async fn a_line_past_the_bound_comes_in_pieces() {
        let mut input = vec![b'x'; LINE_MAX + 10];
        input.extend(b"\nend\n");
        let lengths: Vec<_> = collect(&input).await.iter().map(Vec::len).collect();
        assert_eq!(lengths, [LINE_MAX, 10, 3]);
    }
}

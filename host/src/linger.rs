//! The end of a connection whose client may still be sending a request's body.
//!
//! An answer can be there before the body was read: too long a one is refused, and a function need not read it. Closing a
//! socket with unread bytes in it, or bytes on the way, is a reset for the client, which takes what it has not read of the
//! answer away from it (RFC 9112, section 9.6). So the end of the answers is said first, and what comes after is read and
//! thrown away until the client has closed, too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the rest of a body is waited for, from one piece to the next.
const SILENCE: Duration = Duration::from_secs(2);

/// How long it is read in all.
const WHOLE: Duration = Duration::from_secs(30);

/// Bytes that are thrown away at once.
const PIECE: usize = 16 << 10;

/// Whether there may be more to come of a request's body: one for a connection, whose requests come one by one.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Notes it.
    pub fn set(&self, unread: bool) {
        self.0.store(unread, Relaxed);
    }
}

/// A stream that is closed without a reset.
pub struct Lingering<S> {
    stream: S,
    unread: Unread,
    rest: Option<Rest>,
}

/// Answers are over; when the rest of the body is waited for no longer, and when it is read no longer.
struct Rest {
    silent: Pin<Box<Sleep>>,
    until: Instant,
}

impl<S> Lingering<S> {
    /// Lingers at its end if there is something `unread` then.
    pub fn new(stream: S, unread: Unread) -> Self {
        Self { stream, unread, rest: None }
    }
}

impl<S: AsyncRead + Unpin> Lingering<S> {
    /// Reads what nobody wants until the client has closed, is silent or has had its time.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let rest = self.rest.get_or_insert_with(|| Rest {
            silent: Box::pin(sleep_until(now + SILENCE)),
            until: now + WHOLE,
        });
        let mut piece = [0; PIECE];
        loop {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    let now = Instant::now();
                    // Who sends faster than this task is given turns never lets the timer be asked.
                    if now >= rest.until {
                        return Poll::Ready(());
                    }
                    rest.silent.as_mut().reset((now + SILENCE).min(rest.until));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return rest.silent.as_mut().poll(cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.unread.0.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_rest(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn connection(unread: bool) -> (DuplexStream, Lingering<DuplexStream>) {
        let (client, server) = duplex(8);
        let flag = Unread::default();
        flag.set(unread);
        (client, Lingering::new(server, flag))
    }

    #[tokio::test]
    async fn the_rest_of_a_body_is_read_before_the_end() {
        let (mut client, mut server) = connection(true);
        let sends = async {
            client.write_all(&[1; 1000]).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            drop(client);
            answer
        };
        let answers = async {
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
        };
        assert_eq!(tokio::join!(sends, answers).0, b"answer");
    }

    #[tokio::test]
    async fn a_connection_with_nothing_unread_ends_at_once() {
        let (_client, mut server) = connection(false);
        server.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_silent_is_waited_for_no_longer_than_that() {
        let (_client, mut server) = connection(true);
        let began = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), SILENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_heard_no_longer_than_that() {
        let (mut client, mut server) = connection(true);
        let endless = async {
            while client.write_all(b"more").await.is_ok() {
                tokio::time::sleep(SILENCE / 2).await;
            }
        };
        let answers = async {
            let began = Instant::now();
            server.shutdown().await.unwrap();
            drop(server);
            began.elapsed()
        };
        assert_eq!(tokio::join!(endless, answers).1.as_secs(), WHOLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_pauses_is_heard_no_longer_either() {
        let flag = Unread::default();
        flag.set(true);
        let endless = tokio::io::join(tokio::io::repeat(1), tokio::io::sink());
        let mut server = Lingering::new(endless, flag);
        let mut turns = 0;
        let passing = async {
            while turns < 60 {
                tokio::time::advance(SILENCE / 2).await;
                turns += 1;
            }
        };
        tokio::select! {
            ended = server.shutdown() => ended.unwrap(),
            () = passing => panic!("it is still read after a minute"),
        }
    }
}

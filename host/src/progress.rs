//! How far compilations are: one bar for all of them on the terminal that standard error is.
//!
//! Elsewhere nothing is drawn, and lines say it: the log's, and those of `baton compile`. A bar and
//! the lines of this process's log do not write over each other ([`Above`]).

use std::io::{self, IsTerminal as _, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A process has one terminal, and one bar on it while something is compiled.
static TERMINAL: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// How often the bar is drawn, so that its clock goes on.
const TICK: Duration = Duration::from_millis(200);

/// A compilation that is under way; dropping it says that it has ended.
#[derive(Debug)]
pub struct Compiling(Option<ProgressBar>);

/// Shows that `name` is being compiled, on a terminal.
#[must_use]
pub fn compiling(name: &str) -> Compiling {
    if !io::stderr().is_terminal() {
        return Compiling(None);
    }
    let mut bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = bar.get_or_insert_with(|| {
        let bar = TERMINAL.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("compiling {bar:30} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        bar
    });
    bar.inc_length(1);
    bar.set_message(name.to_owned());
    Compiling(Some(bar.clone()))
}

impl Drop for Compiling {
    fn drop(&mut self) {
        let Some(done) = self.0.take() else { return };
        let mut bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
        done.inc(1);
        if done.length() == Some(done.position()) {
            done.finish_and_clear();
            *bar = None;
        }
    }
}

/// Writes lines above the bar, if there is one.
#[derive(Debug)]
pub struct Above<W>(pub W);

impl<W: Write> Write for Above<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TERMINAL.suspend(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

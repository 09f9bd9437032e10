//! Progress, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown: on standard error when that is a terminal, otherwise nowhere.
#[derive(Clone, Debug)]
pub struct Progress {
    hidden: bool,
}

impl Progress {
    /// On a terminal.
    #[must_use]
    pub fn shown() -> Self {
        Self { hidden: false }
    }

    /// Nowhere.
    #[must_use]
    pub fn hidden() -> Self {
        Self { hidden: true }
    }

    /// A bar of so many steps; call `inc`, at the end `finish_and_clear`.
    #[must_use]
    pub fn steps(&self, steps: usize) -> ProgressBar {
        let length = u64::try_from(steps).unwrap_or(u64::MAX);
        // Not drawn when standard error is no terminal.
        let target = match self.hidden {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = "{elapsed_precise} {wide_bar} {pos}/{len} {msg} {eta}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

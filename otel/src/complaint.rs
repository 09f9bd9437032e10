//! When the fate of the export is worth a line in the log: when it begins to fail, once a minute
//! while it does, and when it is over.

use std::time::Duration;

use tokio::time::Instant;

/// How often a collector that keeps failing is mentioned.
const REMIND: Duration = Duration::from_secs(60);

/// Remembers what has been said.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    /// While it fails: when that was last said.
    said: Option<Instant>,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Nothing,
    Failing,
    Recovered,
}

impl Complaint {
    pub(crate) fn on(&mut self, failed: bool, now: Instant) -> Say {
        match (failed, self.said) {
            (false, None) => Say::Nothing,
            (false, Some(_)) => {
                self.said = None;
                Say::Recovered
            }
            (true, Some(said)) if now.saturating_duration_since(said) < REMIND => Say::Nothing,
            (true, _) => {
                self.said = Some(now);
                Say::Failing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_export_is_mentioned_once_then_reminded_of_and_its_end_told() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut at = |seconds, failed| complaint.on(failed, start + Duration::from_secs(seconds));
        assert_eq!(at(0, false), Say::Nothing);
        assert_eq!(at(1, true), Say::Failing);
        assert_eq!(at(60, true), Say::Nothing);
        assert_eq!(at(61, true), Say::Failing);
        assert_eq!(at(62, false), Say::Recovered);
        assert_eq!(at(63, false), Say::Nothing);
        assert_eq!(at(64, true), Say::Failing);
    }
}

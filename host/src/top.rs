//! `baton top`: what a running Baton does, live in the terminal.
//!
//! Once a second the administration is asked; rates and quantiles are those of the last ten seconds.
//! Reading (`top/reading.rs`) and drawing (`top/screen.rs`) are pure; here is only the loop.

mod reading;
mod screen;

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::ask::{AskError, ask};
use crate::manifest::Listener;
use reading::{Reading, View};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks that rates and quantiles reach back.
const LOOKS: usize = 10;

/// Shows the Baton whose administration is at `admin` until `q` is pressed.
///
/// # Errors
/// When none answers there at first, or without a terminal.
pub fn run(admin: &Listener) -> anyhow::Result<()> {
    anyhow::ensure!(std::io::stdout().is_terminal(), "`baton top` needs a terminal");
    let mut looks = VecDeque::from([look(admin)?]);
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let ended = (|| -> std::io::Result<()> {
        let mut trouble = None;
        loop {
            if let (Some((then, earlier)), Some((now, later))) = (looks.front(), looks.back()) {
                let view = View::between(earlier, later, *now - *then);
                let title = admin.to_string();
                terminal.draw(|frame| screen::draw(frame, &title, &view, trouble.as_deref()))?;
            }
            if quit_within(PERIOD)? {
                return Ok(());
            }
            match look(admin) {
                Ok(look) => {
                    trouble = None;
                    looks.push_back(look);
                }
                Err(error) => trouble = Some(error.to_string()),
            }
            if looks.len() > LOOKS {
                looks.pop_front();
            }
        }
    })();
    ratatui::restore();
    Ok(ended?)
}

fn look(admin: &Listener) -> Result<(Instant, Reading), AskError> {
    let (metrics, functions) = (ask(admin, "/metrics")?, ask(admin, "/v1/functions")?);
    Ok((Instant::now(), Reading::parse(&metrics, &functions)))
}

/// Waits, and says whether the person wants to leave.
fn quit_within(period: Duration) -> std::io::Result<bool> {
    let end = Instant::now() + period;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if !event::poll(left)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(true);
                }
                _ => {}
            },
            // Drawn anew at once.
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}

//! How a view is drawn.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row as TableRow, Table};

use super::reading::{Row, Tier, View};

/// Draws `view` of the Baton at `admin`; `trouble` says why it is not current.
pub(super) fn draw(frame: &mut Frame<'_>, admin: &str, view: &View, trouble: Option<&str>) {
    let [head, pool, table, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(summary(admin, view), head);
    let [memory, states] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Min(20)]).areas(pool);
    frame.render_widget(gauge(view), memory);
    frame.render_widget(sandboxes(view), states);
    frame.render_widget(functions(view), table);
    let foot_line = match trouble {
        Some(trouble) => Line::from(format!(" {trouble}")).red(),
        None => Line::from(" q quits · rates and quantiles of the last 10 s").dim(),
    };
    frame.render_widget(foot_line, foot);
}

fn summary<'a>(admin: &str, view: &View) -> Line<'a> {
    let rate = |tier: usize| view.rows.iter().map(|row| row.tiers[tier].rate).sum::<f64>();
    let (wasm, native) = (rate(0), rate(1));
    let text =
        format!(" baton at {admin} · {:.1} requests/s · {}", wasm + native, share(wasm, native));
    Line::from(text).bold()
}

fn share(wasm: f64, native: f64) -> String {
    let all = wasm + native;
    if all <= 0.0 {
        return "idle".to_owned();
    }
    format!("wasm {:.0} % · native {:.0} %", 100.0 * wasm / all, 100.0 * native / all)
}

fn gauge<'a>(view: &View) -> Gauge<'a> {
    const MIB: f64 = 1_048_576.0;
    let ratio = if view.memory_limit > 0.0 { view.memory / view.memory_limit } else { 0.0 };
    let label = match view.memory_limit > 0.0 {
        true => format!("{:.0} of {:.0} MiB", view.memory / MIB, view.memory_limit / MIB),
        false => "no native tier".to_owned(),
    };
    Gauge::default()
        .block(Block::bordered().title(" pool memory "))
        .gauge_style(Style::new().fg(if ratio > 0.9 { Color::Red } else { Color::Cyan }))
        .ratio(ratio.clamp(0.0, 1.0))
        .label(label)
}

fn sandboxes<'a>(view: &View) -> Paragraph<'a> {
    let states = view.sandboxes.iter().filter(|(_, count)| **count > 0.0);
    let states: Vec<String> = states.map(|(state, count)| format!("{count:.0} {state}")).collect();
    let text = if states.is_empty() { "none".to_owned() } else { states.join(" · ") };
    Paragraph::new(format!(" {text}")).block(Block::bordered().title(" sandboxes "))
}

fn functions<'a>(view: &View) -> Table<'a> {
    let head = [
        "function",
        "req/s",
        "wasm",
        "native",
        "wasm p50",
        "p99",
        "native p50",
        "p99",
        "in flight",
        "errors/s",
        "sandboxes",
    ];
    let widths = [
        Constraint::Min(12),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Min(16),
    ];
    let mut rows: Vec<&Row> = view.rows.iter().collect();
    let busy = |row: &Row| row.tiers.iter().map(|tier| tier.rate).sum::<f64>();
    rows.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    Table::new(rows.into_iter().map(row), widths)
        .header(TableRow::new(head).style(Style::new().bold().underlined()))
        .block(Block::bordered().title(" functions "))
}

fn row<'a>(row: &Row) -> TableRow<'a> {
    let [wasm, native] = &row.tiers;
    let all = wasm.rate + native.rate;
    let percent = |tier: &Tier| match all > 0.0 {
        true => format!("{:.0} %", 100.0 * tier.rate / all),
        false => "–".to_owned(),
    };
    let states = row.sandboxes.iter().filter(|(_, count)| **count > 0);
    let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
    let in_flight = match row.waiting {
        0 => row.in_flight.to_string(),
        waiting => format!("{}+{waiting}", row.in_flight),
    };
    let errors = Cell::from(format!("{:.1}", row.errors));
    TableRow::new([
        Cell::from(row.name.clone()),
        Cell::from(format!("{all:.1}")),
        Cell::from(percent(wasm)).cyan(),
        Cell::from(percent(native)).green(),
        Cell::from(time(wasm.p50)),
        Cell::from(time(wasm.p99)),
        Cell::from(time(native.p50)),
        Cell::from(time(native.p99)),
        Cell::from(in_flight),
        if row.errors > 0.0 { errors.red() } else { errors },
        Cell::from(states.join(" ")),
    ])
}

fn time(duration: Option<Duration>) -> String {
    match duration {
        None => "–".to_owned(),
        Some(short) if short < Duration::from_millis(1) => format!("{} µs", short.as_micros()),
        Some(some) if some < Duration::from_secs(1) => {
            format!("{:.1} ms", some.as_secs_f64() * 1e3)
        }
        Some(long) => format!("{:.1} s", long.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::reading::Reading;
    use crate::top::reading::tests::{FUNCTIONS, page};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn a_view_is_drawn() {
        let (earlier, later) =
            (Reading::parse(&page(0, 0), FUNCTIONS), Reading::parse(&page(990, 10), FUNCTIONS));
        let view = View::between(&earlier, &later, Duration::from_secs(10));
        let mut terminal = Terminal::new(TestBackend::new(120, 9)).unwrap();
        terminal.draw(|frame| draw(frame, "127.0.0.1:8081", &view, None)).unwrap();
        let screen = terminal.backend().to_string();
        for wanted in ["100.0 requests/s", "wasm 100 %", "65 of 2048 MiB", "4 parked", "hello"] {
            assert!(screen.contains(wanted), "{wanted}: {screen}");
        }
    }
}

//! Charts as SVG text: axes, lines, boxes, bars, points. Colours are CSS variables of the page, so
//! that a chart follows light and dark.

use std::fmt::Write as _;

use crate::bars::short;
use crate::stats::float;

/// How many colours the page has for series.
pub(super) const COLOURS: usize = 8;

/// Fewer ticks than this say too little of a scale.
const TICKS_MIN: usize = 3;

/// A scale of an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// From values to pixels; logarithmic scales leave out what is not positive.
    pub(super) fn new(
        values: impl Iterator<Item = f64>,
        logarithmic: bool,
        (from, to): (f64, f64),
    ) -> Self {
        let usable = values.filter(|value| value.is_finite() && (!logarithmic || *value > 0.0));
        let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (mut low, mut high) = if low <= high { (low, high) } else { (1.0, 10.0) };
        if logarithmic {
            (low, high) = (low / 1.15, high * 1.15);
        } else {
            low = low.min(0.0);
            high = if high > low { high * 1.05 } else { low + 1.0 };
        }
        Self { low, high, logarithmic, from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * place
    }

    /// Round values within.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = &[1.0, 2.0, 5.0];
        if self.logarithmic {
            let decades = (self.high / self.low).log10();
            let steps = if decades > 3.0 { &steps[..1] } else { steps };
            let mut ticks = Vec::new();
            let mut decade = 10_f64.powf(self.low.log10().floor());
            while decade <= self.high {
                ticks.extend(steps.iter().map(|step| step * decade));
                decade *= 10.0;
            }
            ticks.retain(|tick| (self.low..=self.high).contains(tick));
            // Within a decade there may be one round value or none.
            if ticks.len() >= TICKS_MIN {
                return ticks;
            }
        }
        let span = self.high - self.low;
        let decade = 10_f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
        let step = step.into_iter().find(|step| span / step <= 6.0).unwrap_or(span);
        let mut tick = (self.low / step).ceil() * step;
        let mut ticks = Vec::new();
        while tick <= self.high {
            // Not -0, which is what rounding up makes.
            ticks.push(if tick == 0.0 { 0.0 } else { tick });
            tick += step;
        }
        ticks
    }
}

/// Text that is safe in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One line of a chart, or one group of points.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// What a chart of lines or points looks like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Axes<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) log_x: bool,
    pub(super) log_y: bool,
    /// Points only.
    pub(super) scattered: bool,
    /// The least and the greatest that the y axis shows at least.
    pub(super) y_shows: Option<(f64, f64)>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 44.0;

/// Lines or points over two axes.
pub(super) fn plot(axes: &Axes<'_>, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|series| &series.points);
    let x = Scale::new(all().map(|point| point.0), axes.log_x, (LEFT, WIDTH - 14.0));
    let shown = axes.y_shows.into_iter().flat_map(|(least, greatest)| [least, greatest]);
    let values = all().map(|point| point.1).chain(shown);
    let y = Scale::new(values, axes.log_y, (HEIGHT - BOTTOM, 10.0));
    let mut svg = open(WIDTH, HEIGHT);
    grid(&mut svg, &x, &y);
    let (middle, bottom) = ((LEFT + WIDTH) / 2.0, HEIGHT - 8.0);
    let _ = write!(
        svg,
        r#"<text class="axis" x="{middle}" y="{bottom}" text-anchor="middle">{}</text><text class="axis" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>"#,
        escaped(axes.x),
        (HEIGHT - BOTTOM) / 2.0,
        escaped(axes.y)
    );
    for series in series {
        let at = |point: &(f64, f64)| (x.at(point.0), y.at(point.1));
        let name = escaped(&series.name);
        let colour = series.colour % COLOURS;
        if axes.scattered {
            let _ = write!(svg, r#"<g class="f{colour} dots"><title>{name}</title>"#);
            for (x, y) in series.points.iter().map(at) {
                let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#);
            }
            svg += "</g>";
            continue;
        }
        let dashed = if series.colour >= COLOURS { " dashed" } else { "" };
        let path: Vec<String> =
            series.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            svg,
            r#"<polyline class="line s{colour}{dashed}" points="{}"><title>{name}</title></polyline>"#,
            path.join(" ")
        );
        if series.points.len() <= 12 {
            for point in &series.points {
                let ((x, y), (a, b)) = (at(point), (short(point.0), short(point.1)));
                let _ = write!(
                    svg,
                    r#"<circle class="f{colour} ring" cx="{x:.1}" cy="{y:.1}" r="4"><title>{name}: {a}, {b}</title></circle>"#
                );
            }
        }
    }
    svg + "</svg>"
}

fn open(width: f64, height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {width} {height}" width="{width}" role="img">"#)
}

fn grid(svg: &mut String, x: &Scale, y: &Scale) {
    let (top, bottom) = (y.to, y.from);
    for tick in x.ticks() {
        let at = x.at(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{top}" y2="{bottom}"/><text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 15.0,
            short(tick)
        );
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{}" x2="{}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            x.from,
            x.to,
            x.from - 6.0,
            at + 4.0,
            short(tick)
        );
    }
}

/// A row of a chart of boxes or bars.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) colour: usize,
    /// Bars: one value. Boxes: p5, p25, p50, p75, p95.
    pub(super) values: Vec<f64>,
}

const ROW: f64 = 24.0;
const NAMES: f64 = 210.0;

/// Horizontal boxes (five values a row), bars or on a logarithmic axis dots (one), with names at the
/// left.
pub(super) fn rows(label: &str, logarithmic: bool, rows: &[Row]) -> String {
    let height = ROW * float(rows.len()) + BOTTOM + 6.0;
    let values = rows.iter().flat_map(|row| row.values.iter().copied());
    let x = Scale::new(values, logarithmic, (NAMES, WIDTH - 60.0));
    let mut svg = open(WIDTH, height);
    let bottom = height - BOTTOM;
    for tick in x.ticks() {
        let at = x.at(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="4" y2="{bottom}"/><text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 15.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        r#"<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>"#,
        f64::midpoint(NAMES, WIDTH - 60.0),
        height - 8.0,
        escaped(label)
    );
    for (index, row) in rows.iter().enumerate() {
        let middle = 4.0 + ROW * (float(index) + 0.5);
        let name = escaped(&row.name);
        let _ = write!(
            svg,
            r#"<text class="name" x="{}" y="{:.1}" text-anchor="end">{name}</text>"#,
            NAMES - 8.0,
            middle + 4.0
        );
        match row.values[..] {
            [low, from, median, to, high] => {
                boxed(&mut svg, &x, row, middle, [low, from, median, to, high]);
            }
            // On a logarithmic axis a length says nothing.
            [value] if logarithmic => dot(&mut svg, &x, row, middle, value),
            [value] => bar(&mut svg, &x, row, middle, value),
            _ => {}
        }
    }
    svg + "</svg>"
}

fn boxed(svg: &mut String, x: &Scale, row: &Row, y: f64, values: [f64; 5]) {
    let [low, from, median, to, high] = values.map(|value| x.at(value));
    let [a, b, c, d, e] = values.map(short);
    let colour = filled(row);
    let line = row.colour % COLOURS;
    let _ = write!(
        svg,
        r#"<g><title>{}: p5 {a}, p25 {b}, p50 {c}, p75 {d}, p95 {e}</title><line class="s{line} line" x1="{low:.1}" x2="{high:.1}" y1="{y:.1}" y2="{y:.1}"/><rect class="{colour} box" x="{from:.1}" y="{:.1}" width="{:.1}" height="12" rx="2"/><line class="median" x1="{median:.1}" x2="{median:.1}" y1="{:.1}" y2="{:.1}"/><text class="tick" x="{:.1}" y="{:.1}">{c}</text></g>"#,
        escaped(&row.name),
        y - 6.0,
        (to - from).max(1.5),
        y - 7.0,
        y + 7.0,
        high.max(median) + 6.0,
        y + 4.0
    );
}

fn bar(svg: &mut String, x: &Scale, row: &Row, y: f64, value: f64) {
    let (zero, at) = (x.at(0.0), x.at(value));
    let colour = filled(row);
    let text = short(value);
    let _ = write!(
        svg,
        r#"<g><title>{}: {text}</title><rect class="{colour}" x="{:.1}" y="{:.1}" width="{:.1}" height="14" rx="3"/><text class="tick" x="{:.1}" y="{:.1}">{text}</text></g>"#,
        escaped(&row.name),
        zero.min(at),
        y - 7.0,
        (at - zero).abs().max(1.0),
        zero.max(at) + 6.0,
        y + 4.0
    );
}

fn dot(svg: &mut String, x: &Scale, row: &Row, y: f64, value: f64) {
    let (at, text) = (x.at(value), short(value));
    let colour = filled(row);
    let _ = write!(
        svg,
        r#"<g><title>{}: {text}</title><circle class="{colour}" cx="{at:.1}" cy="{y:.1}" r="6"/><text class="tick" x="{:.1}" y="{:.1}">{text}</text></g>"#,
        escaped(&row.name),
        at + 11.0,
        y + 4.0
    );
}

/// The classes of what is filled in a row's colour.
fn filled(row: &Row) -> String {
    let hollow = if row.colour >= COLOURS { " hollow" } else { "" };
    format!("f{}{hollow}", row.colour % COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_and_ticks_lie_within_the_axis(
            values in prop::collection::vec(0.001..1e6, 1..20), logarithmic: bool,
        ) {
            let scale = Scale::new(values.iter().copied(), logarithmic, (50.0, 500.0));
            for value in values.into_iter().chain(scale.ticks()) {
                prop_assert!((49.9..=500.1).contains(&scale.at(value)));
            }
            prop_assert!(scale.ticks().len() <= 20);
        }
    }

    #[test]
    fn an_axis_within_a_decade_has_ticks_too_and_zero_has_no_sign() {
        let scale = Scale::new([35.0, 80.0].into_iter(), true, (0.0, 100.0));
        assert!(scale.ticks().len() >= TICKS_MIN, "{:?}", scale.ticks());
        let scale = Scale::new([-98.2, 500.0].into_iter(), false, (0.0, 100.0));
        assert!(scale.ticks().iter().any(|tick| *tick == 0.0 && tick.is_sign_positive()));
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let row = Row { name: "<script>".into(), colour: 0, values: vec![1.0] };
        assert!(!rows("x", false, &[row]).contains("<script>"));
    }
}

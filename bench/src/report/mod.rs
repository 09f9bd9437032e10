//! `baton-bench report`: one page from results files, with the plots that the papers draw.
//!
//! The page needs no network and no script: charts are SVG inside it, every figure is in a table
//! too, and hovering a mark tells its values.

mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::characterize::Size;
use crate::client::Tier;
use crate::measured::Measured;
use crate::patterns::Pattern;
use crate::results::{self, Stored};
use crate::stats::{float, quantile_of_sorted, wide};
use crate::table::Table;
use svg::{Axes, Row, Series, escaped, plot, rows};

/// `baton-bench report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArguments {
    /// Results files, written with --json or by a bench
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where the page goes
    #[arg(short, long, default_value = "report.html")]
    output: PathBuf,
}

/// Writes the page, and returns what is printed.
///
/// # Errors
/// When a file is no results file of this version, or the page cannot be written.
pub fn run(arguments: &ReportArguments) -> anyhow::Result<String> {
    let stored: Vec<Stored> =
        arguments.files.iter().map(|path| results::read(path)).collect::<Result<_, _>>()?;
    fs::write(&arguments.output, page(&stored))?;
    Ok(format!("{}\n", arguments.output.display()))
}

/// Points of one curve: more cannot be seen.
const CURVE: usize = 200;

/// The page.
#[must_use]
pub fn page(stored: &[Stored]) -> String {
    let measured: Vec<&Measured> = stored.iter().flat_map(|stored| &stored.measured).collect();
    let sizes: Vec<&Size> = stored.iter().flat_map(|stored| &stored.sizes).collect();
    let colours = colours(&measured);
    let mut body = String::new();
    for stored in stored {
        let machine = escaped(&stored.machine.line());
        body += &format!("<p class=\"quiet\">{}: {machine}</p>", escaped(&stored.name));
    }
    let sections = [
        ("Latency, cumulative", distributions(&measured, &colours)),
        ("Latency by runtime", boxes(&measured, &colours)),
        ("Response over time", over_time(&measured)),
        ("Mean response relative to hybrid", relative(&measured, &colours)),
        ("Throughput against latency", throughput(&measured, &colours)),
        ("Sizes", sizes_charts(&sizes)),
        ("Resources of a request", resources(&measured, &colours)),
    ];
    let drawn = || sections.iter().enumerate().filter(|(_, (_, charts))| !charts.is_empty());
    let links: String =
        drawn().map(|(place, (title, _))| format!("<a href=\"#s{place}\">{title}</a>")).collect();
    body += &format!("<nav>{links}<a href=\"#all\">All figures</a></nav>");
    body += &drawn()
        .map(|(place, (title, charts))| {
            let charts = charts.concat();
            format!("<h2 id=\"s{place}\">{title}</h2><div class=\"charts\">{charts}</div>")
        })
        .collect::<String>();
    let tables: String =
        stored.iter().flat_map(|stored| stored.tables.iter().map(html_table)).collect();
    body += &format!("<h2 id=\"all\">All figures</h2><div class=\"tables\">{tables}</div>");
    let notes: String = stored
        .iter()
        .flat_map(|stored| &stored.notes)
        .map(|note| format!("<li>{}</li>", escaped(note)))
        .collect();
    body += &format!("<h2>Notes</h2><ul>{notes}</ul>");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Baton, measured</title>\
         <style>{STYLE}</style></head><body><main><h1>Baton, measured</h1>{body}</main></body></html>"
    )
}

fn figure(title: &str, legend: &[(String, usize)], chart: &str) -> String {
    let marks: String = legend
        .iter()
        .map(|(name, colour)| {
            let dashed = if *colour >= svg::COLOURS { " hollow" } else { "" };
            let colour = colour % svg::COLOURS;
            format!("<span><i class=\"b{colour}{dashed}\"></i>{}</span>", escaped(name))
        })
        .collect();
    let legend = match legend.len() {
        0 | 1 => String::new(),
        _ => format!("<div class=\"legend\">{marks}</div>"),
    };
    format!("<figure><figcaption>{}</figcaption>{legend}{chart}</figure>", escaped(title))
}

type Colours = BTreeMap<String, usize>;

/// Runtimes that are known, with colours far apart for those that are drawn together; from
/// [`svg::COLOURS`] on the same again, dashed.
const KNOWN: [&str; 13] = [
    "baton wasm",
    "baton hybrid",
    "wasmtime",
    "runc scratch",
    "baton adaptive",
    "wasmtime Pulley",
    "wasmtime JIT",
    "baton native",
    "",
    "crun debian",
    "process",
    "runc debian",
    "crun scratch",
];

/// A runtime has the same colour in all charts, and the known ones in all reports.
fn colours(measured: &[&Measured]) -> Colours {
    let known = KNOWN.iter().enumerate().filter(|(_, name)| !name.is_empty());
    let mut colours: Colours = known.map(|(colour, name)| ((*name).to_owned(), colour)).collect();
    let mut others = 0;
    for row in measured {
        colours.entry(row.runtime.clone()).or_insert_with(|| {
            others += 1;
            others - 1
        });
    }
    colours
}

fn subject(row: &Measured) -> String {
    format!("{} {}", row.function, row.parameters).trim_end().to_owned()
}

/// Rows of the same function, request and scenario, in the order of their first.
fn groups<'a>(measured: &[&'a Measured]) -> Vec<(String, Vec<&'a Measured>)> {
    let mut groups: Vec<(String, Vec<&Measured>)> = Vec::new();
    for row in measured.iter().filter(|row| !row.points.is_empty()) {
        let at_once = match row.connections {
            0 | 1 => String::new(),
            many => format!(", {many} at once"),
        };
        let title = format!("{}, {}{at_once}", subject(row), row.scenario);
        // The same may have been measured more than once, such as for two papers.
        let fits = |group: &&mut (String, Vec<&Measured>)| {
            group.0 == title && group.1.iter().all(|other| other.runtime != row.runtime)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.1.push(row),
            None => groups.push((title, vec![row])),
        }
    }
    groups.retain(|(_, rows)| rows.len() > 1);
    groups
}

fn sorted(row: &Measured) -> Vec<f64> {
    let mut ms = row.ms();
    ms.sort_by(f64::total_cmp);
    ms
}

fn distributions(measured: &[&Measured], colours: &Colours) -> Vec<String> {
    let chart = |(title, rows): (String, Vec<&Measured>)| {
        let series: Vec<Series> = rows
            .iter()
            .map(|row| {
                let ms = sorted(row);
                let points = (0..=CURVE).map(|index| {
                    let share = float(index) / float(CURVE);
                    (quantile_of_sorted(&ms, share), share)
                });
                let colour = colours[&row.runtime];
                Series { name: row.runtime.clone(), colour, points: points.collect() }
            })
            .collect();
        let axes = Axes { x: "ms", y: "share of requests", log_x: true, ..Axes::default() };
        figure(&title, &legend(&series), &plot(&axes, &series))
    };
    groups(measured).into_iter().map(chart).collect()
}

fn legend(series: &[Series]) -> Vec<(String, usize)> {
    series.iter().map(|series| (series.name.clone(), series.colour)).collect()
}

fn boxes(measured: &[&Measured], colours: &Colours) -> Vec<String> {
    let chart = |(title, group): (String, Vec<&Measured>)| {
        let drawn: Vec<Row> = group
            .iter()
            .map(|row| {
                let ms = sorted(row);
                let values = [0.05, 0.25, 0.5, 0.75, 0.95].map(|q| quantile_of_sorted(&ms, q));
                let colour = colours[&row.runtime];
                Row { name: row.runtime.clone(), colour, values: values.to_vec() }
            })
            .collect();
        figure(&title, &[], &rows("ms: p5 to p95, box p25 to p75, median", true, &drawn))
    };
    groups(measured).into_iter().map(chart).collect()
}

fn is_pattern(row: &Measured) -> bool {
    Pattern::ALL.iter().any(|pattern| pattern.to_string() == row.scenario)
}

fn over_time(measured: &[&Measured]) -> Vec<String> {
    let timed = measured.iter().filter(|row| !row.points.is_empty()).filter(|row| {
        is_pattern(row) || row.scenario.starts_with("open") || (row.wasm > 0.0 && row.native > 0.0)
    });
    // What is compared has the same axis.
    let alike = |row: &Measured| {
        let same =
            |other: &&&Measured| (subject(other), &other.scenario) == (subject(row), &row.scenario);
        let points = measured.iter().filter(same).flat_map(|other| &other.points);
        let ms = points.map(|point| point.ms);
        ms.fold(None, |shown, ms| {
            let (least, greatest) = shown.unwrap_or((ms, ms));
            Some((f64::min(least, ms), f64::max(greatest, ms)))
        })
    };
    let chart = |row: &&Measured| {
        let tiers =
            [(Tier::Wasm, "Wasm", 0), (Tier::Native, "native", 7), (Tier::Unknown, "other", 4)];
        let series: Vec<Series> = tiers
            .into_iter()
            .map(|(tier, name, colour)| {
                let of = row.points.iter().filter(|point| point.tier == tier);
                let points = of.map(|point| (point.at, point.ms)).collect();
                Series { name: name.to_owned(), colour, points }
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        let y_shows = alike(row);
        let axes =
            Axes { x: "s", y: "ms", log_y: true, scattered: true, y_shows, ..Axes::default() };
        let title = format!("{}, {}, {}", subject(row), row.runtime, row.scenario);
        figure(&title, &legend(&series), &plot(&axes, &series))
    };
    timed.map(chart).collect()
}

fn relative(measured: &[&Measured], colours: &Colours) -> Vec<String> {
    let patterned: Vec<&Measured> =
        measured.iter().filter(|row| is_pattern(row)).copied().collect();
    let mut functions: Vec<String> = patterned.iter().map(|row| subject(row)).collect();
    functions.dedup();
    functions.sort();
    functions.dedup();
    let chart = |function: String| {
        let mut drawn = Vec::new();
        for pattern in Pattern::ALL {
            let of =
                |row: &&&Measured| subject(row) == function && row.scenario == pattern.to_string();
            let hybrid = patterned.iter().filter(of).find(|row| row.runtime == "baton hybrid")?;
            for row in patterned.iter().filter(of) {
                let percent = (row.latency.mean / hybrid.latency.mean - 1.0) * 100.0;
                let name = format!("{pattern}: {}", row.runtime);
                let colour = colours[&row.runtime];
                if row.runtime != hybrid.runtime {
                    drawn.push(Row { name, colour, values: vec![percent] });
                }
            }
        }
        (!drawn.is_empty())
            .then(|| figure(&function, &[], &rows("% above hybrid's mean", false, &drawn)))
    };
    functions.into_iter().filter_map(chart).collect()
}

fn throughput(measured: &[&Measured], colours: &Colours) -> Vec<String> {
    let warm = || measured.iter().filter(|row| row.scenario == "warm" && row.connections > 0);
    let mut functions: Vec<String> = warm().map(|row| subject(row)).collect();
    functions.sort();
    functions.dedup();
    let chart = |function: String| {
        let mut series: Vec<Series> = Vec::new();
        for row in warm().filter(|row| subject(row) == function) {
            let point = (row.rate, row.latency.p50);
            match series.iter_mut().find(|series| series.name == row.runtime) {
                Some(series) => series.points.push(point),
                None => series.push(Series {
                    name: row.runtime.clone(),
                    colour: colours[&row.runtime],
                    points: vec![point],
                }),
            }
        }
        let several = series.iter().any(|series| series.points.len() > 1);
        let axes = Axes {
            x: "requests a second, a point for each number at once",
            y: "p50 ms",
            log_x: true,
            log_y: true,
            ..Axes::default()
        };
        several.then(|| figure(&function, &legend(&series), &plot(&axes, &series)))
    };
    functions.into_iter().filter_map(chart).collect()
}

fn sizes_charts(sizes: &[&Size]) -> Vec<String> {
    let mut functions: Vec<&str> = sizes.iter().map(|size| size.function.as_str()).collect();
    functions.sort_unstable();
    functions.dedup();
    let chart = |function: &str| {
        let drawn: Vec<Row> = sizes
            .iter()
            .filter(|size| size.function == function)
            .map(|size| Row {
                name: size.artifact.clone(),
                colour: 0,
                values: vec![wide(size.bytes) / 1e6],
            })
            .collect();
        figure(function, &[], &rows("MB", true, &drawn))
    };
    functions.into_iter().map(chart).collect()
}

/// One figure of a measurement, if it has it.
type Figure = fn(&Measured) -> Option<f64>;

fn resources(measured: &[&Measured], colours: &Colours) -> Vec<String> {
    let alone: Vec<&Measured> = measured
        .iter()
        .filter(|row| row.scenario == "warm" && row.connections <= 1)
        .copied()
        .collect();
    let mut functions: Vec<String> = alone.iter().map(|row| subject(row)).collect();
    functions.sort();
    functions.dedup();
    let figures: [(&str, Figure); 3] = [
        ("CPU ms", |row| row.cpu_ms),
        ("peak resident MB", |row| row.memory.map(|bytes| wide(bytes) / 1e6)),
        ("joules", |row| row.joules),
    ];
    let mut charts = Vec::new();
    for function in functions {
        for (label, value) in figures {
            let of = alone.iter().filter(|row| subject(row) == function);
            let drawn: Vec<Row> = of
                .filter_map(|row| {
                    let values = vec![value(row)?];
                    Some(Row { name: row.runtime.clone(), colour: colours[&row.runtime], values })
                })
                .collect();
            if !drawn.is_empty() {
                charts.push(figure(
                    &format!("{function}: {label}"),
                    &[],
                    &rows(label, false, &drawn),
                ));
            }
        }
    }
    charts
}

fn html_table(table: &Table) -> String {
    let cells = |tag: &str, row: &[String]| -> String {
        row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let rows: String =
        table.rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
    format!(
        "<details><summary>{}</summary><div class=\"scroll\"><table><tr>{}</tr>{rows}</table></div></details>",
        escaped(&table.title),
        cells("th", &table.columns)
    )
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::Point;

    fn row(runtime: &str, scenario: &str) -> Measured {
        let point = |index: u32| Point {
            at: f64::from(index),
            ms: f64::from(index + 1),
            tier: if index.is_multiple_of(2) { Tier::Wasm } else { Tier::Native },
        };
        let mut row = Measured::of_latencies("f", runtime, scenario, &[1.0, 2.0]);
        row.points = (0..20).map(point).collect();
        row.connections = usize::from(scenario == "warm");
        row.cpu_ms = Some(1.0);
        row
    }

    #[test]
    fn a_page_has_every_chart_and_asks_nobody_for_anything() {
        let mut measured = Vec::new();
        for runtime in ["baton wasm", "baton hybrid", "<b>other</b>"] {
            measured.extend(
                ["cold", "warm", "steady", "spike", "jump", "fluctuating"].map(|s| row(runtime, s)),
            );
            measured.push(Measured { connections: 8, rate: 99.0, ..row(runtime, "warm") });
        }
        let sizes = vec![Size { function: "f".into(), artifact: "component".into(), bytes: 100 }];
        let stored = Stored { measured, sizes, ..Stored::default() };
        let page = page(&[stored]);
        for title in [
            "cumulative",
            "by runtime",
            "over time",
            "relative",
            "Throughput",
            "Sizes",
            "Resources",
        ] {
            assert!(page.contains(title), "{title}");
        }
        assert!(!page.contains("<b>other"), "names are escaped");
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}

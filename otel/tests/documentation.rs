//! The page on telemetry says exactly what the code can say. `just tables` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use baton_otel::metrics::{INSTRUMENTS, Kind};
use baton_otel::names::{ATTRIBUTES, EVENTS, Name, SPANS};
use baton_otel::prometheus;

const BEGIN: &str = "<!-- from here on written by `just tables` -->\n";

fn names(text: &mut String, title: &str, names: &[Name]) {
    let _ = writeln!(text, "\n## {title}\n\n| name | meaning |\n|---|---|");
    for Name { name, doc } in names {
        let _ = writeln!(text, "| `{name}` | {doc} |");
    }
}

fn metrics(text: &mut String) {
    text.push_str("\n## Metrics\n\n| name over OTLP, in `/metrics` | kind, unit | attributes | meaning |\n|---|---|---|---|\n");
    for instrument in INSTRUMENTS {
        let kind = match instrument.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter => "up-down counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let attributes: Vec<String> =
            instrument.attributes.iter().map(|key| format!("`{key}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` `{}` | {kind}, {} | {} | {} |",
            instrument.name,
            prometheus::name(instrument),
            instrument.unit,
            attributes.join(" "),
            instrument.doc,
        );
    }
}

#[test]
fn the_tables_of_the_page_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/telemetry.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (prose, written) = page.split_once(BEGIN).expect("the page marks where its tables begin");
    let mut tables = String::new();
    names(&mut tables, "Spans", SPANS);
    names(&mut tables, "Events", EVENTS);
    metrics(&mut tables);
    names(&mut tables, "Attributes", ATTRIBUTES);
    if std::env::var_os("BATON_WRITE_TABLES").is_some() {
        std::fs::write(&path, format!("{prose}{BEGIN}{tables}")).unwrap();
        return;
    }
    assert!(written == tables, "docs/telemetry.md is not current: run `just tables`");
}

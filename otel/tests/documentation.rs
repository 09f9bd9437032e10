//! The page on telemetry says exactly the names that the code can say.

use std::fmt::Write as _;

use baton_otel::names::{ATTRIBUTES, EVENTS, Name, SPANS};

const PAGE: &str = include_str!("../../docs/telemetry.md");

fn table(title: &str, names: &[Name]) -> String {
    let mut text = format!("## {title}\n\n| name | meaning |\n|---|---|\n");
    for Name { name, doc } in names {
        let _ = writeln!(text, "| `{name}` | {doc} |");
    }
    text
}

#[test]
fn every_table_of_the_page_is_the_one_of_the_code() {
    for (title, names) in [("Spans", SPANS), ("Events", EVENTS), ("Attributes", ATTRIBUTES)] {
        let table = table(title, names);
        assert!(PAGE.contains(&table), "docs/telemetry.md should hold this:\n\n{table}");
    }
}

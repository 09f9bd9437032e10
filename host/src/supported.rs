//! What the manifest can say and this version cannot do yet. It is refused rather than ignored: a
//! limit or a guard that is written down and not kept would be worse than none.

use crate::manifest::{Fault, Function, Manifest, Misfit};

/// Every key of `manifest` that asks for what this version cannot do.
#[must_use]
pub fn check(manifest: &Manifest) -> Vec<Fault> {
    let faults = manifest.functions.iter().flat_map(|function| {
        let key = move |key: &str| format!("function.{}.{key}", function.name);
        unsupported(function).map(move |(name, what, expected)| {
            let problem = format!("{what} is not in this version of Baton yet");
            manifest.source.fault(key(name), Misfit::new(problem, expected))
        })
    });
    faults.collect()
}

type Row = (&'static str, &'static str, &'static str);

fn unsupported(function: &Function) -> impl Iterator<Item = Row> {
    let rows: [(bool, Row); 1] = [(
        function.verify.sample > 0.0
            && !(function.policy.uses_wasm() && function.policy.uses_native()),
        (
            "verify",
            "the comparison of both tiers' answers where the policy uses one only",
            "policy = \"hybrid\" or \"adaptive\"",
        ),
    )];
    rows.into_iter().filter_map(|(asked, row)| asked.then_some(row))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_cannot_be_done_yet_is_refused_at_its_place() {
        let text = r#"
[[function]]
name = "a"
route = "/a"
component = "a.wasm"
verify = { sample = 0.5 }
native = "a"
policy = "wasm"
"#;
        let manifest = Manifest::parse(text, Path::new("baton.toml")).unwrap();
        let faults = manifest.source.faults(check(&manifest)).unwrap().to_string();
        assert!(faults.contains("baton.toml:6"), "{faults}");
        assert!(faults.contains("not in this version of Baton yet"), "{faults}");
    }

    #[test]
    fn an_ordinary_manifest_is_supported() {
        let text = "[[function]]\nname = \"a\"\nroute = \"/a\"\ncomponent = \"a.wasm\"\n";
        let manifest = Manifest::parse(text, Path::new("baton.toml")).unwrap();
        assert!(check(&manifest).is_empty());
    }
}

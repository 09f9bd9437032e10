//! `language-detection`: the language and script that a text is written in.
//!
//! `POST /` with `{"text": "The quick brown fox jumps over the lazy dog", "storage", "size_kib",
//! "seed": 1, "measure": true}`, all optional; the default text is the korvoj suite's. For Lumos's
//! language-detection the text is `text`, or the object at the URL `storage`, or `size_kib` of English
//! words made from the seed. The answer is a report whose data are `{"bytes", "language", "script",
//! "confidence"}`: the ISO 639-3 code and the name of the script; null when the text has none, and the
//! language also when two are equally likely.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Report, Stopwatch, Text, length};
use serde::{Deserialize, Serialize};

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer)).layer(DefaultBodyLimit::max(Text::LONGEST_REQUEST))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    text: Option<String>,
    storage: Option<String>,
    size_kib: Option<u32>,
    seed: u64,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { text: None, storage: None, size_kib: None, seed: 1, measure: true }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    bytes: u64,
    language: Option<&'static str>,
    script: Option<String>,
    confidence: f64,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let pangram = || String::from("The quick brown fox jumps over the lazy dog");
    let generated = input.storage.is_some() || input.size_kib.is_some();
    let given = Text {
        text: input.text.or_else(|| (!generated).then(pangram)),
        storage: input.storage,
        size_kib: input.size_kib.unwrap_or(1),
        seed: input.seed,
    };
    let text = given.read(&mut stopwatch).await?;
    let output = detect(&text);
    stopwatch.computed();
    Ok(stopwatch.report(input.measure, output))
}

/// Of two languages that are equally likely whatlang takes the one that its unstable sort put first,
/// which differs between the builds; its confidence is 0 then.
fn detect(text: &str) -> Output {
    let bytes = length(text.as_bytes());
    let info = whatlang::detect(text);
    let confidence = info.as_ref().map_or(0.0, whatlang::Info::confidence);
    Output {
        bytes,
        language: info.as_ref().filter(|_| confidence > 0.0).map(|info| info.lang().code()),
        script: info.map(|info| info.script().name().to_owned()),
        confidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_sentence_is_english() {
        let output = detect("The quick brown fox jumps over the lazy dog");
        assert_eq!((output.language, output.script.as_deref()), (Some("eng"), Some("Latin")));
    }

    #[test]
    fn text_without_letters_has_no_language() {
        let nothing = Output { bytes: 3, language: None, script: None, confidence: 0.0 };
        assert_eq!(detect("1 2"), nothing);
    }
}

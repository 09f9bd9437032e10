//! Two answers to the same request, compared.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::manifest::Shown;

/// Bytes of a body that are compared; past them only the length is.
pub(super) const BODY_MAX: usize = 1 << 20;

/// Bytes of a body that are shown, where bodies may be kept.
const SHOWN_MAX: usize = 1 << 10;

/// A body as far as it is compared. Keeping it copies nothing.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    kept: Vec<Bytes>,
    kept_bytes: usize,
    length: u64,
}

impl Captured {
    /// Takes the next bytes.
    pub fn push(&mut self, data: &Bytes) {
        self.length += data.len() as u64;
        let room = BODY_MAX.saturating_sub(self.kept_bytes).min(data.len());
        if room > 0 {
            self.kept.push(data.slice(..room));
            self.kept_bytes += room;
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.kept.iter().flat_map(|part| part.iter().copied())
    }

    fn is_like(&self, other: &Self) -> bool {
        self.length == other.length && self.bytes().eq(other.bytes())
    }

    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        self.kept.iter().for_each(|part| digest.update(part));
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What one tier answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status; `None`: it failed.
    pub status: Option<StatusCode>,
    /// The headers that are compared.
    pub headers: Vec<(String, Option<String>)>,
    /// The body.
    pub body: Captured,
}

impl Answer {
    /// The head of an answer, of whose headers those in `compared` count.
    #[must_use]
    pub fn new(status: StatusCode, headers: &HeaderMap, compared: &[String]) -> Self {
        let value = |name: &String| {
            let all: Vec<_> = headers
                .get_all(name.as_str())
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            (name.clone(), (!all.is_empty()).then(|| all.join(", ")))
        };
        Self {
            status: Some(status),
            headers: compared.iter().map(value).collect(),
            body: Captured::default(),
        }
    }

    /// How it is shown.
    #[must_use]
    pub fn shown(&self, keep: Shown) -> Value {
        let mut shown = json!({
            "status": self.status.map(|status| status.as_u16()),
            "headers": self.headers.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "body_bytes": self.body.length,
            "body_sha256": self.body.digest(),
        });
        if keep == Shown::Bodies {
            let start: Vec<u8> = self.body.bytes().take(SHOWN_MAX).collect();
            shown["body"] = String::from_utf8_lossy(&start).into();
        }
        shown
    }
}

/// In what two answers differ, in words: `status`, `header NAME`, `body`. Two failures are alike.
#[must_use]
pub fn differences(wasm: &Answer, native: &Answer) -> Vec<String> {
    if wasm.status != native.status {
        return vec!["status".to_owned()];
    }
    if wasm.status.is_none() {
        return Vec::new();
    }
    let pairs = wasm.headers.iter().zip(&native.headers);
    let headers = pairs.filter(|(a, b)| a.1 != b.1).map(|(a, _)| format!("header {}", a.0));
    let body = (!wasm.body.is_like(&native.body)).then(|| "body".to_owned());
    headers.chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, kind: &str, parts: &[&'static str]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        headers.insert("date", "now".parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        let mut answer = Answer::new(status, &headers, &["content-type".to_owned()]);
        parts.iter().for_each(|part| answer.body.push(&Bytes::from_static(part.as_bytes())));
        answer
    }

    #[test]
    fn the_same_bytes_in_other_pieces_are_alike() {
        let (a, b) = (answer(200, "a/b", &["ab", "c"]), answer(200, "a/b", &["a", "", "bc"]));
        assert!(differences(&a, &b).is_empty());
    }

    #[test]
    fn status_chosen_headers_and_body_are_compared() {
        let a = answer(200, "a/b", &["abc"]);
        assert_eq!(differences(&a, &answer(404, "a/b", &["abc"])), ["status"]);
        assert_eq!(differences(&a, &answer(200, "a/c", &["abd"])), ["header content-type", "body"]);
        assert_eq!(differences(&a, &Answer::default()), ["status"]);
        assert!(differences(&Answer::default(), &Answer::default()).is_empty());
    }

    #[test]
    fn past_the_bound_only_the_length_counts() {
        let big = Bytes::from(vec![b'x'; BODY_MAX]);
        let (mut a, mut b) = (Answer::default(), Answer::default());
        for (answer, end) in [(&mut a, "1"), (&mut b, "2")] {
            answer.status = Some(StatusCode::OK);
            answer.body.push(&big);
            answer.body.push(&Bytes::from_static(end.as_bytes()));
        }
        assert!(differences(&a, &b).is_empty());
        b.body.push(&Bytes::from_static(b"3"));
        assert_eq!(differences(&a, &b), ["body"]);
    }

    #[test]
    fn bodies_are_shown_only_where_that_is_wanted() {
        let a = answer(200, "a/b", &["secret"]);
        assert!(a.shown(Shown::Digests).get("body").is_none());
        assert_eq!(a.shown(Shown::Bodies)["body"], "secret");
    }
}

use std::collections::BTreeSet;
use std::sync::Arc;

use baton_otel::{RequestContext, Sampler};
use http::{Method, Request, StatusCode};
use tokio::sync::Semaphore;

use super::*;
use crate::record::Peer;

fn record(method: &str, path: &str, status: u16) -> Record {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let context = RequestContext::accept(request.headers(), &Sampler::ratio(0.0));
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let peer = Arc::new(Peer::new(None, None, place));
    let mut record = Record::new(&request, context, peer);
    record.status = StatusCode::from_u16(status).unwrap();
    record
}

fn end(counts: &Counts, record: &Record) {
    counts.ended(record, Instant::now(), Outcome::Complete);
}

#[test]
fn hostile_paths_and_methods_make_no_series() {
    let counts = Counts::default();
    for i in 0..1_000 {
        end(&counts, &record(&format!("METHOD{i}"), &format!("/{i}?{i}"), 404));
    }
    assert_eq!(counts.requests.iter().count(), 1);
}

#[test]
fn a_function_that_answers_with_every_status_has_a_bounded_number_of_series() {
    let counts = Counts::default();
    for status in 100..=999 {
        for method in ["GET", "POST"] {
            end(&counts, &record(method, "/", status));
        }
    }
    assert_eq!(counts.requests.iter().count(), SERIES + 1);
    let all: u64 = counts.requests.iter().map(|(_, durations)| durations.shot().count()).sum();
    assert_eq!(all, 1_800);
}

#[test]
fn every_request_is_in_exactly_one_series_and_tier() {
    let counts = Counts::default();
    let tiers = [None, Some((Tier::Wasm, Reason::Policy)), Some((Tier::Native, Reason::Warm))];
    for (i, tier) in tiers.iter().cycle().take(300).enumerate() {
        let mut record = record("GET", "/", if i % 2 == 0 { 200 } else { 500 });
        record.tier = *tier;
        end(&counts, &record);
    }
    assert_eq!(counts.answered(Tier::Wasm) + counts.answered(Tier::Native) + counts.refused(), 300);
    assert_eq!(counts.durations(Tier::Wasm).count(), counts.answered(Tier::Wasm));
    assert_eq!(counts.failed(), 150);
    let keys: BTreeSet<_> = counts.requests.iter().map(|(key, _)| format!("{key:?}")).collect();
    assert_eq!(keys.len(), 6);
}

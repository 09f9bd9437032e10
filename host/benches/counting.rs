//! What it costs to count a request that has ended: every metric that a request changes.
//!
//! One thread, one function, the counters in the processor's cache: the least that counting takes. Many
//! calls make a sample, since one is hardly longer than the clock's own step.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use baton::metrics::Counts;
use baton::phases::Phase;
use baton::record::{Outcome, Peer, Record};
use baton::tier::{Reason, Tier};
use baton_otel::{RequestContext, Sampler};
use divan::Bencher;
use http::Request;
use tokio::sync::Semaphore;

fn main() {
    divan::main();
}

/// A request that a component answered.
#[divan::bench(sample_size = 1000)]
fn wasm(bencher: Bencher<'_, '_>) {
    count(bencher, (Tier::Wasm, Reason::Policy), &[Phase::Instantiate, Phase::Handle]);
}

/// A request that was forwarded to a warm sandbox.
#[divan::bench(sample_size = 1000)]
fn native(bencher: Bencher<'_, '_>) {
    count(bencher, (Tier::Native, Reason::Warm), &[Phase::Lease, Phase::Forward]);
}

fn count(bencher: Bencher<'_, '_>, tier: (Tier, Reason), phases: &[Phase]) {
    let request = Request::get("/hello").body(()).expect("a request");
    let context = RequestContext::accept(request.headers(), &Sampler::ratio(0.0));
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("the one place");
    let mut record = Record::new(&request, context, Arc::new(Peer::new(None, None, place)));
    record.tier = Some(tier);
    for phase in phases {
        record.phases.enter(*phase, Instant::now());
    }
    let (counts, end) = (Counts::default(), Instant::now());
    bencher.bench_local(|| counts.ended(black_box(&record), end, Outcome::Complete));
    assert!(counts.answered(tier.0) > 0, "requests were counted");
}

//! The answer of the Lumos suite: `{"status", "runtime", "data"}`, with the times in `data`.

use std::time::{Duration, Instant};

use baton_function::Json;
use serde::Serialize;

/// Divides the time of a request among retrieval, serialization and computation.
///
/// Each lap takes the time since the lap before; laps of the same kind add up.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    lap: Instant,
    retrieval: Duration,
    serialization: Duration,
    compute: Duration,
}

/// The answer, written by [`Stopwatch::report`].
#[derive(Clone, Debug, Serialize)]
pub struct Report<T> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'static str>,
    data: Data<T>,
}

#[derive(Clone, Debug, Serialize)]
struct Data<T> {
    #[serde(flatten)]
    times: Option<Times>,
    #[serde(flatten)]
    result: T,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    data_retrieval_ms: f64,
    serialization_ms: f64,
    compute_ms: f64,
}

impl Stopwatch {
    /// Begins the first lap.
    pub fn start() -> Self {
        let none = Duration::ZERO;
        Self { lap: Instant::now(), retrieval: none, serialization: none, compute: none }
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.lap, now))
    }

    /// The lap went into reading from the store or writing to it.
    pub fn retrieved(&mut self) {
        let lap = self.lap();
        self.retrieval += lap;
    }

    /// The lap went into bringing data into the form that is computed with, stored or answered.
    pub fn serialized(&mut self) {
        let lap = self.lap();
        self.serialization += lap;
    }

    /// The lap went into the work itself.
    pub fn computed(&mut self) {
        let lap = self.lap();
        self.compute += lap;
    }

    /// The answer. Without `measure` it says neither runtime nor times: what is left is equal in
    /// both builds.
    pub fn report<T: Serialize>(self, measure: bool, result: T) -> Json<Report<T>> {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let times = Times {
            data_retrieval_ms: ms(self.retrieval),
            serialization_ms: ms(self.serialization),
            compute_ms: ms(self.compute),
        };
        let runtime = if cfg!(target_family = "wasm") { "wasm" } else { "native" };
        Json(Report {
            status: "success",
            runtime: measure.then_some(runtime),
            data: Data { times: measure.then_some(times), result },
        })
    }
}

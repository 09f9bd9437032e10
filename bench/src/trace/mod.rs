//! Traces in the column format of the Azure Functions dataset of 2019: read, made, selected from,
//! replayed.

pub mod generate;
pub mod read;
pub mod replay;
pub mod select;
mod stand_in;

use serde::{Deserialize, Serialize};

/// The invocations of one function, a number for each minute.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Invocations {
    /// Hash of the owner.
    pub owner: String,
    /// Hash of the app.
    pub app: String,
    /// Hash of the function.
    pub function: String,
    /// What invokes it.
    pub trigger: String,
    /// One count for each minute.
    pub counts: Vec<u32>,
}

/// How long one function runs, in milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Durations {
    /// Hash of the function.
    pub function: String,
    /// The average.
    pub average: f64,
    /// The median of the averages.
    pub median: f64,
}

//! Baton, the host: serves every function at once from WebAssembly and passes requests on to a
//! native sandbox as soon as that is the faster place.
//!
//! A request's way: [`server`] accepts, [`service`] routes and admits, then either [`wasm`] runs an
//! instance or [`native`] forwards to a sandbox; [`answer`] carries the body out and tells
//! [`observer`] how it ended. The processes around it: [`supervisor`] starts the host with a
//! [`handover`], and the host process assembles itself in [`host`].

pub mod access;
pub mod admin;
pub mod answer;
pub mod artifact;
pub mod ask;
pub mod cli;
pub mod cohort;
pub mod compile;
pub mod cores;
pub mod deploy;
pub mod doctor;
pub mod egress;
pub mod explain;
pub mod function;
pub mod gate;
pub mod handover;
pub mod head;
pub mod host;
pub mod in_flight;
pub mod lines;
pub mod linger;
pub mod load;
pub mod log;
pub mod manifest;
pub mod metrics;
pub mod native;
pub mod observer;
pub mod phases;
pub mod problem;
pub mod progress;
pub mod record;
pub mod request_body;
pub mod route;
pub mod scratch;
pub mod server;
pub mod service;
pub mod stopwatch;
pub mod supervisor;
pub mod supported;
pub mod tier;
pub mod tls;
pub mod top;
pub mod tunnel;
pub mod verify;
pub mod wasm;

//! Real sandboxes, made by a real daemon, as root.

mod activation;
mod faults;
mod isolation;
mod limits;
mod removal;
mod speed;
mod support;

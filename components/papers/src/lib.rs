//! What the papers' functions have in common, so that each of them says only what it computes.
//!
//! - [`Numbers`]: pseudo-random input made from a seed.
//! - [`within`], [`exactly`]: requests are validated, and a bad one is told what was expected.
//! - [`Checksum`]: a large result is answered by its checksum.
//! - [`Stopwatch`] and [`Report`]: the Lumos suite's answer with its times.
//! - `Object` (feature `storage`): an object in an HTTP object store, read or written, and `Text`, which may be one.
//!
//! Everything here is equal bit for bit in both builds, but for the times.

mod checksum;
mod numbers;
#[cfg(feature = "storage")]
mod object;
mod report;
#[cfg(feature = "storage")]
mod text;
mod validate;

pub use checksum::Checksum;
pub use numbers::Numbers;
#[cfg(feature = "storage")]
pub use object::Object;
pub use report::{Report, Stopwatch};
#[cfg(feature = "storage")]
pub use text::Text;
pub use validate::{exactly, within};

/// A count as an index.
///
/// # Panics
/// Never: both builds address at least 32 bits.
pub fn index(count: u32) -> usize {
    usize::try_from(count).expect("both builds address at least 32 bits")
}

/// A length as every build writes it.
pub fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("no build addresses more than 64 bits")
}

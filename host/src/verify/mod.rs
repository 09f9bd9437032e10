//! The equivalence guard: a sampled request is answered by both tiers, and the answers are compared.
//!
//! The client gets the first answer as ever; the other tier runs when that one is over, in a shadow
//! that nobody waits for. A function that may connect elsewhere is compared only where the manifest
//! allows its calls to be doubled; all others cannot connect, in the shadow either.

mod compare;
mod guard;
pub mod offline;

mod shadow;

pub use compare::{Answer, Captured, differences};
pub use guard::Guard;
pub use shadow::Sample;

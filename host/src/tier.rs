//! The tiers, and the small vocabulary that says why one was chosen.

/// Where a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// An instance of the component.
    Wasm,
    /// The native build in a sandbox.
    Native,
}

impl Tier {
    /// The value of `baton.tier` and of `Server-Timing`'s `tier`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "native",
        }
    }
}

/// Why a tier was chosen: the value of `baton.tier.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The function's policy leaves no choice.
    Policy,
    /// A warm sandbox had room.
    Warm,
    /// No sandbox was warm; one is being prepared.
    NoWarmSandbox,
    /// The sandbox turned out to be gone before the request had reached it.
    SandboxGone,
    /// No sandboxes can be made on this machine.
    NoSandboxes,
}

impl Reason {
    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Warm => "warm",
            Self::NoWarmSandbox => "no-warm-sandbox",
            Self::SandboxGone => "sandbox-gone",
            Self::NoSandboxes => "no-sandboxes",
        }
    }
}

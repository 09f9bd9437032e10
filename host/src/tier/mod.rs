//! The tiers, which one answers, and the small vocabulary that says why.

pub mod account;
pub mod adaptive;
pub mod chooser;
pub mod concurrency;
pub mod estimate;
#[cfg(test)]
mod simulation;

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
    /// A parked sandbox was activated for the request: even so it is finished earlier than by Wasm.
    Parked,
    /// A busy sandbox was waited for: even so it is finished earlier than by Wasm.
    Busy,
    /// No sandbox was warm; one is being prepared.
    NoWarmSandbox,
    /// All sandboxes were busy, and Wasm is finished earlier than they have room.
    Saturated,
    /// No sandbox was warm, and making one does not pay yet.
    NotWorth,
    /// Wasm is not slower than the native build with the way there.
    WasmFaster,
    /// The other tier was not measured for long.
    Probe,
    /// The sandbox that was chosen was not ready in time.
    Late,
    /// The sandbox turned out to be gone before the request had reached it.
    SandboxGone,
    /// No sandboxes can be made on this machine.
    NoSandboxes,
    /// The two builds answered differently, so Wasm answers until somebody promotes the function.
    Diverged,
}

impl Reason {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 13] = [
        Self::Policy,
        Self::Warm,
        Self::Parked,
        Self::Busy,
        Self::NoWarmSandbox,
        Self::Saturated,
        Self::NotWorth,
        Self::WasmFaster,
        Self::Probe,
        Self::Late,
        Self::SandboxGone,
        Self::NoSandboxes,
        Self::Diverged,
    ];

    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Warm => "warm",
            Self::Parked => "parked",
            Self::Busy => "busy",
            Self::NoWarmSandbox => "no-warm-sandbox",
            Self::Saturated => "saturated",
            Self::NotWorth => "not-worth",
            Self::WasmFaster => "wasm-faster",
            Self::Probe => "probe",
            Self::Late => "late",
            Self::SandboxGone => "sandbox-gone",
            Self::NoSandboxes => "no-sandboxes",
            Self::Diverged => "diverged",
        }
    }

    /// What it means, a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Policy => "The policy leaves no choice.",
            Self::Warm => "A warm sandbox had room.",
            Self::Parked => {
                "A parked sandbox was activated for the request: even so it is finished earlier than by Wasm."
            }
            Self::Busy => {
                "A busy sandbox was waited for: even so it is finished earlier than by Wasm."
            }
            Self::NoWarmSandbox => "No sandbox was warm; one is being prepared.",
            Self::Saturated => {
                "All sandboxes were busy, and Wasm is finished earlier than they have room."
            }
            Self::NotWorth => "No sandbox was warm, and making one does not pay yet.",
            Self::WasmFaster => "Wasm is not slower than the native build with the way there.",
            Self::Probe => "The other tier was not measured for long.",
            Self::Late => "The sandbox that was chosen was not ready in time.",
            Self::SandboxGone => "The sandbox turned out to be gone.",
            Self::NoSandboxes => "No sandboxes can be made on this machine.",
            Self::Diverged => {
                "The two builds answered differently, so Wasm answers until the function is promoted again."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_page_on_telemetry_lists_every_reason() {
        let mut table = String::from("| reason | meaning |\n|---|---|\n");
        for reason in Reason::ALL {
            let _ = writeln!(table, "| `{}` | {} |", reason.name(), reason.meaning());
        }
        let page = include_str!("../../../docs/telemetry.md");
        assert!(page.contains(&table), "docs/telemetry.md should hold this:\n\n{table}");
    }
}

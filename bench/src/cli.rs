//! The command line.

use clap::{Args, Parser, Subcommand};

/// Measures Baton: functions, traces, policies, baselines.
#[derive(Debug, Parser)]
#[command(name = "baton-bench", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure everything of a name, side by side with what it is compared with; without a name,
    /// list them
    Bench(BenchArguments),
}

/// `baton-bench bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Which one
    pub name: Option<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Few and short rounds, to see whether it runs; its figures are worth little
    #[arg(long)]
    pub quick: bool,
}

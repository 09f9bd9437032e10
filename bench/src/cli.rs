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
    /// Have libcontainer run a bundle, as runc and crun do; for `bench pool`
    #[command(hide = true)]
    Container(ContainerArguments),
}

/// `baton-bench container`.
#[derive(Debug, Args)]
pub struct ContainerArguments {
    /// Where libcontainer keeps its state
    #[arg(long)]
    pub state: std::path::PathBuf,
    /// The bundle
    #[arg(long)]
    pub bundle: std::path::PathBuf,
    /// The container's name
    pub id: String,
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

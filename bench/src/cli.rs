//! The command line.

use crate::characterize::CharacterizeArguments;
use crate::compare::CompareArguments;
use crate::paper::PaperArguments;
use crate::report::ReportArguments;
use crate::run::RunArguments;
use crate::trace::replay::TraceArguments;
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
    /// Measure one function in one way
    Run(Box<RunArguments>),
    /// Make, look into and replay traces in the columns of the Azure Functions dataset of 2019
    Trace(TraceArguments),
    /// Compare the places where a function can run: policies, runtimes, containers
    Compare(Box<CompareArguments>),
    /// Measure what a function is like in each of its forms
    Characterize(Box<CharacterizeArguments>),
    /// Measure the tables and figures of the papers again
    Paper(PaperArguments),
    /// Make one page with plots of results files
    Report(ReportArguments),
    /// Have libcontainer run a bundle, as runc and crun do; for `bench pool`
    #[command(hide = true)]
    Container(ContainerArguments),
    /// A server with nothing behind it (started by benches)
    #[command(hide = true)]
    Bare,
    /// A relay to a Unix socket that understands nothing (started by benches)
    #[command(hide = true)]
    Relay(RelayArguments),
}

/// `baton-bench relay`.
#[derive(Debug, Args)]
pub struct RelayArguments {
    /// Where the function listens
    pub to: std::path::PathBuf,
    /// Hand bytes on within the kernel
    #[arg(long)]
    pub splice: bool,
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
    /// Few and short rounds into a file of their own, to see whether it runs; the figures are worth little
    #[arg(long)]
    pub quick: bool,
    /// Only these parts of it, into a file of their own; a wrong name lists them
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub only: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn refusal(arguments: &str) -> String {
        let words = std::iter::once("baton-bench").chain(arguments.split(' '));
        Cli::try_parse_from(words).expect_err("a refusal").to_string()
    }

    #[test]
    fn every_argument_is_declared_without_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_by_name() {
        for (arguments, named) in [
            ("run hello --concurrency 0", "--concurrency"),
            ("run hello --mode lukewarm", "--mode"),
            ("run hello --url http://127.0.0.1:1 --policy wasm", "--policy"),
            ("trace replay --minutes 5-3", "--minutes"),
            ("trace replay --durations d.csv", "--trace"),
            ("trace generate d --minutes 1441", "--minutes"),
            ("report", "<FILES>"),
        ] {
            let refusal = refusal(arguments);
            assert!(refusal.contains(named), "{arguments}: {refusal}");
        }
    }
}

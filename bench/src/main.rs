//! The `baton-bench` command. See `baton-bench --help`.

use std::io::Write as _;
use std::process::ExitCode;

use baton_bench::bare;
use baton_bench::bench::{self, BENCHES, Session};
use baton_bench::cli::{BenchArguments, Cli, Command, ContainerArguments, RelayArguments};
use baton_bench::output::OutputArguments;
use baton_bench::relay::Manner;
use baton_bench::results::Results;
use baton_bench::{characterize, compare, paper, pool, relay, report, run, trace};
use clap::Parser as _;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bench(arguments) => run_bench(&arguments),
        Command::Container(ContainerArguments { state, bundle, id }) => {
            pool::container(&state, &bundle, &id)
        }
        Command::Run(arguments) => {
            run::run(&arguments).and_then(|results| deliver(&results, &arguments.output))
        }
        Command::Compare(arguments) => {
            compare::run(&arguments).and_then(|results| deliver(&results, &arguments.output))
        }
        Command::Characterize(arguments) => {
            characterize::run(&arguments).and_then(|results| deliver(&results, &arguments.output))
        }
        Command::Paper(arguments) => paper::run(&arguments).and_then(|text| say(&text)),
        Command::Report(arguments) => report::run(&arguments).and_then(|text| say(&text)),
        Command::Trace(arguments) => trace::replay::run(&arguments)
            .and_then(|(text, partial)| say(&text).and_then(|()| whole(partial))),
        Command::Bare => bare::serve(),
        Command::Relay(RelayArguments { to, splice }) => {
            relay::serve(&to, if splice { Manner::Spliced } else { Manner::Copied })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "baton-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_bench(arguments: &BenchArguments) -> anyhow::Result<()> {
    let Some(name) = &arguments.name else {
        for bench in BENCHES {
            say(&format!("{:<12} {}\n", bench.name, bench.about))?;
        }
        return Ok(());
    };
    let Some(found) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        anyhow::bail!("there is no bench {name:?}; expected one of {}", names.join(", "));
    };
    let mut session = Session::new(arguments.seed, arguments.quick);
    session.only.clone_from(&arguments.only);
    let results = bench::run(found, &session)?;
    let path = results.write()?;
    say(&format!("results: {}\n{}", path.display(), results.text()))
}

/// Prints results, and writes them where they were asked for.
fn deliver(results: &Results, output: &OutputArguments) -> anyhow::Result<()> {
    say(&output.write(results)?)?;
    whole(results.is_partial())
}

/// Fails, after what there is was told, when the target was lost.
fn whole(partial: bool) -> anyhow::Result<()> {
    anyhow::ensure!(!partial, "the target was lost; the results hold what was measured before");
    Ok(())
}

/// To standard output; who stopped reading wants no more.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

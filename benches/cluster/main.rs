//! What `make bench` runs: every figure beside a peer that was measured in the same call, as one Markdown table.
//!
//! Loopback only; everything it starts is stopped and every folder removed. `corediscover-bench [--seconds N]
//! [dns|kv|reads|birth|resources|latency]…`; the program under test is `corediscover` beside this one.

mod agents;
mod birth;
mod dns;
mod echo;
mod etcd;
mod http;
mod kv;
mod latency;
mod load;
mod names;
mod place;
mod process;
mod reads;
mod resources;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::place::Place;
use self::table::{Row, say};

/// How long each figure is measured, after a warm-up: long enough for the 10 ms ticks of /proc/PID/stat.
const SECONDS: u64 = 4;
/// Programs of Debian packages that the peers need.
const TOOLS: &[(&str, &str)] =
    &[("etcd", "etcd-server"), ("knotd", "knot"), ("unbound", "unbound"), ("dnsperf", "dnsperf")];
/// The parts, in the order of the table.
const PARTS: &[&str] = &["dns", "kv", "reads", "birth", "latency", "resources"];

/// What the command line asks for.
struct Arguments {
    seconds: Duration,
    parts: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = if let [part, address, file] = &arguments[..]
        && part == "echo"
    {
        echo::serve(address, file)
    } else {
        tokio::select! {
            result = bench(&arguments) => result,
            result = interrupted() => result,
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Ends with an error when somebody wants this to stop; what was started then goes out of scope.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => bail!("stopped"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

async fn bench(arguments: &[String]) -> Result<()> {
    let Arguments { seconds, parts } = parse(arguments)?;
    for (program, package) in TOOLS {
        process::require(program, package)?;
    }
    let place = Place::new()?;
    let mut rows: Vec<Row> = Vec::new();
    for part in parts {
        say(&format!("measuring {part} …"));
        let measured = match part.as_str() {
            "dns" => dns::measure(&place, seconds).await,
            "kv" => kv::measure(&place, seconds).await,
            "reads" => reads::measure(&place, seconds).await,
            "birth" => birth::measure(&place).await,
            "latency" => latency::measure(&place).await,
            _ => resources::measure(&place, seconds).await,
        };
        rows.extend(measured.with_context(|| format!("cannot measure {part}"))?);
    }
    table::print(&rows, &place)
}

fn parse(arguments: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments { seconds: Duration::from_secs(SECONDS), parts: Vec::new() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--seconds" {
            let text = words.next().context("--seconds needs a number")?;
            parsed.seconds = Duration::from_secs(text.parse().context("--seconds needs a number")?);
        } else if PARTS.contains(&word.as_str()) {
            parsed.parts.push(word.clone());
        } else {
            bail!("unknown part {word}; known are {}", PARTS.join(", "));
        }
    }
    if parsed.parts.is_empty() {
        parsed.parts = PARTS.iter().map(|part| (*part).to_owned()).collect();
    }
    Ok(parsed)
}

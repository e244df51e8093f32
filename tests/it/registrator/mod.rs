//! The registrator: pure transcripts, and the real binary between a real Docker engine and an agent in the test.

mod agent;
mod command_line;
mod containers;
mod proxy;
mod scenarios;
mod stories;

use std::process::Stdio;

use crate::support::{Running, corediscover};

/// The registrator as people run it, registering at `agent`.
fn registrator(agent: &agent::Agent, options: &[&str]) -> Running {
    registrator_with(agent, options, &[])
}

fn registrator_with(agent: &agent::Agent, options: &[&str], environment: &[(&str, &str)]) -> Running {
    let mut command = corediscover();
    command.arg("registrator").args(options).arg(agent.uri()).envs(environment.iter().copied());
    Running::start("registrator", command.stdout(Stdio::null()))
}

/// Docker's name of this machine, the first part of every id.
fn hostname() -> String {
    crate::support::docker::docker(&["info", "--format", "{{.Name}}"])
}

//! `fleet status`, `cat`, `journal`: what units are and say.

use serde::Serialize;

use super::machines::MachineArgs;
use super::{Fleet, tell_failure};
use crate::cli::{EXIT_FAILED, Output};
use crate::fleet::Machine;
use crate::hint::fault;
use crate::model::fleet::schedule::{homes, text_of};
use crate::model::fleet::tables::{self, Place, View};

/// Arguments of `status`.
#[derive(clap::Args)]
pub(super) struct StatusArgs {
    /// Names of units.
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `cat`.
#[derive(clap::Args)]
pub(super) struct CatArgs {
    /// Names of units.
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
}

/// Arguments of `journal`.
#[derive(clap::Args)]
pub(super) struct JournalArgs {
    /// Name of the unit.
    #[arg(value_name = "UNIT")]
    unit: String,
    /// Go on printing what it writes.
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines.
    #[arg(long, short = 'n', default_value_t = 10)]
    lines: u32,
}

/// A unit on a machine, for programs.
#[derive(Serialize)]
struct Row {
    unit: String,
    machine: Place,
    desired: &'static str,
    load: String,
    active: String,
    sub: String,
}

/// Runs `status`.
pub(super) fn status(machines: &MachineArgs, args: StatusArgs, output: &mut Output) -> anyhow::Result<u8> {
    let mut fleet = Fleet::reach(machines, output)?;
    let (found, fine) = find(&fleet, &args.units, output);
    if args.json {
        let mut rows = Vec::new();
        for (unit, number) in &found {
            let machine = &fleet.machines[*number];
            if let Some(record) = machine.survey.units.iter().find(|record| record.name == *unit) {
                rows.push(Row {
                    unit: unit.clone(),
                    machine: machine.place(),
                    desired: record.desired.word(),
                    load: record.load.clone(),
                    active: record.active.clone(),
                    sub: record.sub.clone(),
                });
            }
        }
        output.data(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        return Ok(if fine { fleet.code() } else { EXIT_FAILED });
    }
    for (unit, number) in found {
        let ask = |_, machine: &Machine| {
            let words = ["systemctl", "status", "--full", "--no-pager", "--", &unit];
            // The code is that of the unit's state; lines of the journal are for root.
            let answer = match machine.check_root() {
                Ok(()) => machine.run_as_root(&words, &[])?,
                Err(_) => machine.connection.run(&words, &[])?,
            };
            Ok(answer.text() + &answer.errors())
        };
        for (number, text) in fleet.on(&[number], ask, |_| None, output) {
            let place = tables::place(&fleet.machines[number].place(), &View::default());
            output.data(&format!("-- {unit} on {place}\n{text}"))?;
        }
    }
    Ok(if fine { fleet.code() } else { EXIT_FAILED })
}

/// Where the units are; those that are nowhere are told, and the second value is false then.
fn find(fleet: &Fleet, units: &[String], output: &mut Output) -> (Vec<(String, usize)>, bool) {
    let known = fleet.known();
    let mut found = Vec::new();
    let mut fine = true;
    for unit in units {
        let places = homes(&known, unit);
        if places.is_empty() {
            let error = fault(
                "no machine that answered has this unit",
                "`corediscover fleet list-unit-files` lists all",
            );
            tell_failure(unit, &error, output);
            fine = false;
        }
        found.extend(places.into_iter().map(|number| (unit.clone(), number)));
    }
    (found, fine)
}

/// Runs `cat`.
pub(super) fn cat(machines: &MachineArgs, args: CatArgs, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = Fleet::reach(machines, output)?;
    let (_, fine) = find(&fleet, &args.units, output);
    for unit in &args.units {
        if let Some(text) = text_of(&fleet.known(), unit) {
            output.data(&text)?;
        }
    }
    Ok(if fine { fleet.code() } else { EXIT_FAILED })
}

/// Runs `journal`: of one machine as it is, of several one after the other with their names.
pub(super) fn journal(machines: &MachineArgs, args: JournalArgs, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = Fleet::reach(machines, output)?;
    let (found, mut fine) = find(&fleet, std::slice::from_ref(&args.unit), output);
    if args.follow && found.len() > 1 {
        return Err(fault(
            format!("{} is on {} machines, and one of them can be followed", args.unit, found.len()),
            "leave out -f, or name one machine with --machines",
        ));
    }
    let lines = args.lines.to_string();
    let mut words = vec!["journalctl", "--no-pager", "--unit", &args.unit, "--lines", &lines];
    if args.follow {
        words.push("--follow");
    }
    let as_root: Vec<&str> = ["sudo", "-n", "--"].into_iter().chain(words.iter().copied()).collect();
    let several = found.len() > 1;
    for (_, number) in found {
        let machine = &fleet.machines[number];
        if several {
            output.data(&format!("-- {}\n", tables::place(&machine.place(), &View::default())))?;
        }
        // Without root there are at least the user's own lines.
        let needs_sudo = machine.survey.user != 0 && machine.check_root().is_ok();
        let words = if needs_sudo { &as_root } else { &words };
        let mut printed = Ok(());
        let code = machine.connection.follow(words, &mut |_, bytes| {
            printed = output.bytes(bytes);
            printed.as_ref().map_err(|_| anyhow::anyhow!("nobody reads it")).copied()
        });
        // Nobody reads on: the other machines need not be asked.
        printed?;
        let error = match code {
            Ok(0) => continue,
            Ok(code) => fault(format!("journalctl ended with code {code}"), "it said why above"),
            Err(error) => error,
        };
        tell_failure(&machine.target.name, &error, output);
        fine = false;
    }
    Ok(if fine { fleet.code() } else { EXIT_FAILED })
}

//! `fleet ssh`: a command or a shell on one machine.

use super::machines::{Chosen, MachineArgs};
use super::{Fleet, tell_failure};
use crate::cli::{EXIT_FAILED, Output, Usage};
use crate::fleet::{Lost, Machine, Stream};
use crate::hint::fault;
use crate::model::fleet::schedule::homes;

/// Arguments of `ssh`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The machine that has this unit, instead of MACHINE.
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Name, address, or the beginning of the id of a machine.
    #[arg(value_name = "MACHINE")]
    machine: Option<String>,
    /// The command to run there, else a shell.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The exit code where that of the command is not known, as of ssh(1).
const EXIT_UNKNOWN: u8 = 255;

/// Runs the command; the exit code is that of what ran there.
pub(super) fn run(machines: &MachineArgs, args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let mut words = args.command;
    let fleet;
    let machine = if let Some(unit) = &args.unit {
        // The machine is said already, so this word is the command's.
        words.splice(0..0, args.machine);
        fleet = Fleet::reach(machines, output)?;
        one(
            unit,
            &homes(&fleet.known(), unit).iter().map(|number| &fleet.machines[*number]).collect::<Vec<_>>(),
        )?
    } else {
        let chosen = machines.targets()?;
        let Some(name) = args.machine else {
            let error =
                fault("no machine is named", "`corediscover fleet ssh MACHINE` or `… ssh --unit UNIT`");
            return Err(error.context(Usage("fleet ssh does not know which machine")));
        };
        let named: Vec<_> = chosen
            .targets
            .iter()
            .filter(|target| target.name == name || target.host == name)
            .cloned()
            .collect();
        // One that is named by its id is found by asking all.
        let chosen = if named.len() == 1 { Chosen { targets: named, failed: Vec::new() } } else { chosen };
        fleet = Fleet::reach_these(&chosen, machines, output)?;
        if chosen.targets.len() == 1 && fleet.machines.is_empty() {
            return Ok(EXIT_UNKNOWN);
        }
        let fits = |machine: &&Machine| {
            machine.target.name == name
                || machine.target.host == name
                || machine.survey.hostname == name
                || machine.connection.address.to_string() == name
                || machine.survey.machine_id.starts_with(&name)
        };
        one(&name, &fleet.machines.iter().filter(fits).collect::<Vec<_>>())?
    };
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    match run_there(machine, &words, output) {
        Ok(code) => Ok(u8::try_from(code).unwrap_or(EXIT_FAILED)),
        Err(error) if error.is::<Lost>() => {
            tell_failure(&machine.target.name, &error, output);
            Ok(EXIT_UNKNOWN)
        }
        Err(error) => Err(error),
    }
}

/// Runs the command, or a shell if there is none; gives its exit code.
fn run_there(machine: &Machine, words: &[String], output: &mut Output) -> anyhow::Result<i32> {
    if words.is_empty() {
        let terminal = std::env::var("TERM").ok();
        return machine.connection.shell(terminal.as_deref(), &mut |bytes| output.bytes(bytes));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A line of standard error that has not ended yet.
    let mut begun: Vec<u8> = Vec::new();
    let code = machine.connection.follow(&words, &mut |from, bytes| {
        if from == Stream::Stdout {
            return output.bytes(bytes);
        }
        begun.extend_from_slice(bytes);
        if let Some(end) = begun.iter().rposition(|byte| *byte == b'\n') {
            output.note(&String::from_utf8_lossy(&begun[..end]));
            begun.drain(..=end);
        }
        Ok(())
    });
    if !begun.is_empty() {
        output.note(&String::from_utf8_lossy(&begun));
    }
    code
}

fn one<'a>(name: &str, machines: &[&'a Machine]) -> anyhow::Result<&'a Machine> {
    match machines {
        [machine] => Ok(machine),
        [] => Err(fault(
            format!("no machine that answered is `{name}`, or has it"),
            "`corediscover fleet list-machines` lists them",
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|machine| machine.target.name.as_str()).collect();
            Err(fault(format!("`{name}` can be any of {}", names.join(", ")), "name one of them"))
        }
    }
}

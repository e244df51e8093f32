//! `corediscover fleet …`: units and the binary onto machines over SSH. One file per group of commands.

mod list;
mod machines;
mod read;
mod ssh;
mod units;
mod up;

use clap::Subcommand;

use self::machines::{Chosen, MachineArgs};
use super::{EXIT_FAILED, EXIT_FINE, Output};
use crate::fleet::{Machine, on_all, restore_at_signals};
use crate::hint;
use crate::model::fleet::schedule::Known;

/// Arguments of `fleet`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    machines: MachineArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn plain machines with sshd and systemd into one cluster; again, to add machines to it.
    Up(up::Args),
    /// List the machines.
    ListMachines(list::Args),
    /// List the units that systemd has, and how they are.
    ListUnits(list::Args),
    /// List all units, those that are only submitted too.
    ListUnitFiles(list::Args),
    /// Give units to the machines, without starting them.
    Submit(units::SubmitArgs),
    /// Start units: files, units that are known, or instances of templates.
    Start(units::StartArgs),
    /// Stop units, also at boot.
    Stop(units::NamesArgs),
    /// Stop and start units.
    Restart(units::NamesArgs),
    /// Stop units and forget them.
    Destroy(units::DestroyArgs),
    /// Show what systemd says about units.
    Status(read::StatusArgs),
    /// Print a unit's text.
    Cat(read::CatArgs),
    /// Print what a unit wrote.
    Journal(read::JournalArgs),
    /// Run a command on a machine, or a shell.
    ///
    /// The exit code is the command's; 128 and the signal's number where a signal ended it; 255 where nobody can say:
    /// the machine was not reached, or the connection ended first. `reboot` ends with its connection (255 and a line that
    /// says so), or just before it (0).
    Ssh(ssh::Args),
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let machines = args.machines;
    match args.command {
        Command::Up(args) => up::run(machines, args, output),
        Command::ListMachines(args) => list::machines(&machines, args, output),
        Command::ListUnits(args) => list::units(&machines, args, output),
        Command::ListUnitFiles(args) => list::unit_files(&machines, args, output),
        Command::Submit(args) => units::submit(&machines, args, output),
        Command::Start(args) => units::start(&machines, args, output),
        Command::Stop(args) => units::stop(&machines, args, output),
        Command::Restart(args) => units::restart(&machines, args, output),
        Command::Destroy(args) => units::destroy(&machines, args, output),
        Command::Status(args) => read::status(&machines, args, output),
        Command::Cat(args) => read::cat(&machines, args, output),
        Command::Journal(args) => read::journal(&machines, args, output),
        Command::Ssh(args) => ssh::run(&machines, args, output),
    }
}

/// The machines that answered, and the names of those that did not, or failed since.
struct Fleet {
    machines: Vec<Machine>,
    failed: Vec<String>,
}

impl Fleet {
    /// Connects to all machines at once; each is told about when it has answered.
    fn reach(args: &MachineArgs, output: &mut Output) -> anyhow::Result<Self> {
        Self::reach_these(&args.targets()?, args, output)
    }

    /// As [`Fleet::reach`], with a choice of the machines.
    fn reach_these(chosen: &Chosen, args: &MachineArgs, output: &mut Output) -> anyhow::Result<Self> {
        let Chosen { targets, failed } = chosen;
        for (name, error) in failed {
            tell_failure(name, error, output);
        }
        let settings = args.settings()?;
        // After vagrant was asked, which is to get signals as ever.
        restore_at_signals()?;
        let results = on_all(
            targets,
            |target| Machine::reach(target, &settings),
            |number, result| match result {
                Ok(_) => output.note(&format!("{}: connected", targets[number].name)),
                Err(error) => tell_failure(&targets[number].name, error, output),
            },
        );
        let failed = failed.iter().map(|(name, _)| name.clone()).collect();
        let mut fleet = Self { machines: Vec::new(), failed };
        for (target, result) in targets.iter().zip(results) {
            match result {
                Ok(machine) => fleet.machines.push(machine),
                Err(_) => fleet.failed.push(target.name.clone()),
            }
        }
        Ok(fleet)
    }

    /// Does `work` on the machines with these numbers at once. `told` is the line about one that worked. Gives, for each
    /// that worked, its number and the result.
    fn on<Out: Send>(
        &mut self,
        numbers: &[usize],
        work: impl Fn(usize, &Machine) -> anyhow::Result<Out> + Sync,
        told: impl Fn(&Out) -> Option<String>,
        output: &mut Output,
    ) -> Vec<(usize, Out)> {
        let machines = &self.machines;
        let results = on_all(
            numbers,
            |number| work(*number, &machines[*number]),
            |at, result| {
                let name = &machines[numbers[at]].target.name;
                match result {
                    Ok(out) => {
                        if let Some(line) = told(out) {
                            output.note(&format!("{name}: {line}"));
                        }
                    }
                    Err(error) => tell_failure(name, error, output),
                }
            },
        );
        let mut worked = Vec::new();
        for (number, result) in numbers.iter().zip(results) {
            match result {
                Ok(out) => worked.push((*number, out)),
                Err(_) => self.failed.push(self.machines[*number].target.name.clone()),
            }
        }
        worked
    }

    /// What placing needs to know of them.
    fn known(&self) -> Vec<Known<'_>> {
        let known = self.machines.iter();
        known
            .map(|Machine { target, survey, .. }| Known {
                name: &target.name,
                metadata: &target.metadata,
                survey,
            })
            .collect()
    }

    /// The exit code: fine only if every machine did what it was asked.
    fn code(&self) -> u8 {
        if self.failed.is_empty() { EXIT_FINE } else { EXIT_FAILED }
    }
}

fn tell_failure(name: &str, error: &anyhow::Error, output: &mut Output) {
    let mut report = hint::report(error);
    if !report.contains(&format!("\n{}", hint::HINT_PREFIX)) {
        report.push('\n');
        report.push_str(hint::HINT_PREFIX);
        report.push_str("the same command can be given again; log in there by hand to see more");
    }
    output.note(&report.replacen("error: ", &format!("error: {name}: "), 1));
}

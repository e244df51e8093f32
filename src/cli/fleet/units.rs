//! `fleet submit`, `start`, `stop`, `restart`, `destroy`: what changes units.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use super::machines::MachineArgs;
use super::{Fleet, tell_failure};
use crate::cli::{EXIT_FAILED, Output, Usage};
use crate::fleet::units::Step;
use crate::hint::{WithHint as _, fault};
use crate::model::fleet::requirements::{Requirements, template_of};
use crate::model::fleet::schedule::{Known, Wanted, homes, is_template, schedule, text_of};
use crate::model::fleet::survey::{Desired, UnitRecord};
use crate::model::fleet::tables::{self, View};
use crate::model::provision::lint::{Finding, Language, Rule, lint, unit_name_fault};

/// Largest unit file in bytes: what is larger is something else.
const UNIT_BYTES_MAX: u64 = 1 << 20;

/// Arguments of `submit`.
#[derive(clap::Args)]
pub(super) struct SubmitArgs {
    /// Unit files.
    #[arg(required = true, value_name = "FILE")]
    units: Vec<String>,
    /// Replace units that are known with another text.
    #[arg(long)]
    replace: bool,
}

/// Arguments of `start`.
#[derive(clap::Args)]
pub(super) struct StartArgs {
    /// Unit files, names of known units, or instances of templates.
    #[arg(required = true, value_name = "FILE|UNIT")]
    units: Vec<String>,
    /// Replace units that are known with another text.
    #[arg(long)]
    replace: bool,
    /// Do not wait until they run.
    #[arg(long)]
    no_block: bool,
}

/// Arguments of `stop` and `restart`.
#[derive(clap::Args)]
pub(super) struct NamesArgs {
    /// Names of units.
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
    /// Do not wait until it is done.
    #[arg(long)]
    no_block: bool,
}

/// Arguments of `destroy`.
#[derive(clap::Args)]
pub(super) struct DestroyArgs {
    /// Names of units.
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
}

/// A unit that the user named.
struct Asked {
    name: String,
    /// The text of the file, if it is one.
    file: Option<String>,
}

/// Steps for one machine: the unit, what is done, and what is said when it is done.
type Work = BTreeMap<usize, Vec<(String, Step, Option<String>)>>;

/// Runs `submit`.
pub(super) fn submit(machines: &MachineArgs, args: SubmitArgs, output: &mut Output) -> anyhow::Result<u8> {
    let asked = args.units.iter().map(|unit| read(unit, true)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut fleet = Fleet::reach(machines, output)?;
    let (wanted, mut fine) = wanted(&fleet.known(), asked, args.replace, output);
    let mut work = Work::new();
    fine &= place(&fleet, &wanted, &mut work, output, |unit, _| {
        let said = if unit.asks.global {
            format!("Triggered global unit {} submit", unit.name)
        } else {
            format!("Unit {} inactive", unit.name)
        };
        (Step::Submit { text: unit.text.clone() }, said)
    });
    finish(&mut fleet, &work, fine, output)
}

/// Runs `start`.
pub(super) fn start(machines: &MachineArgs, args: StartArgs, output: &mut Output) -> anyhow::Result<u8> {
    let asked = args.units.iter().map(|unit| read(unit, false)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(template) = asked.iter().find(|asked| is_template(&asked.name)) {
        let (name, instance) = (&template.name, template.name.replace("@.", "@1."));
        let error =
            fault(format!("{name} is a template"), format!("submit it, then start an instance: {instance}"));
        return Err(error.context(Usage("a template cannot be started")));
    }
    let mut fleet = Fleet::reach(machines, output)?;
    let (wanted, mut fine) = wanted(&fleet.known(), asked, args.replace, output);
    let mut work = Work::new();
    fine &= place(&fleet, &wanted, &mut work, output, |unit, number| {
        let machine = &fleet.machines[number];
        let on = tables::place(&machine.place(), &View::default());
        let said = if unit.asks.global {
            format!("Triggered global unit {} start", unit.name)
        } else {
            format!("Unit {} launched on {on}", unit.name)
        };
        (Step::Start { text: unit.text.clone(), no_block: args.no_block }, said)
    });
    finish(&mut fleet, &work, fine, output)
}

/// Runs `stop`.
pub(super) fn stop(machines: &MachineArgs, args: NamesArgs, output: &mut Output) -> anyhow::Result<u8> {
    let no_block = args.no_block;
    change(machines, &args.units, output, Step::Stop { no_block }, "stop", |unit, on| {
        format!("Unit {unit} loaded on {on}")
    })
}

/// Runs `restart`.
pub(super) fn restart(machines: &MachineArgs, args: NamesArgs, output: &mut Output) -> anyhow::Result<u8> {
    let no_block = args.no_block;
    change(machines, &args.units, output, Step::Restart { no_block }, "restart", |unit, on| {
        format!("Unit {unit} launched on {on}")
    })
}

/// Runs `destroy`.
pub(super) fn destroy(machines: &MachineArgs, args: DestroyArgs, output: &mut Output) -> anyhow::Result<u8> {
    change(machines, &args.units, output, Step::Destroy, "destroy", |unit, _| format!("Destroyed {unit}"))
}

/// Reads a file, if it is one.
fn read(unit: &str, must_be_file: bool) -> anyhow::Result<Asked> {
    let path = Path::new(unit);
    if path.is_dir() {
        let error = fault(
            format!("{unit} is a folder"),
            format!("name the unit files in it: {}/*.service", unit.trim_end_matches('/')),
        );
        return Err(error.context(Usage("this cannot be a unit")));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(why) = unit_name_fault(&name) {
        let error = fault(
            format!("`{name}` is no name of a unit: {why}"),
            "name it as in `web.service` or `web@1.service`",
        );
        return Err(error.context(Usage("this cannot be a unit")));
    }
    // The template of an instance may lie beside it.
    let beside = template_of(&name).map(|template| path.with_file_name(template));
    let file = [Some(path.to_owned()), beside].into_iter().flatten().find(|path| path.is_file());
    let Some(file) = file else {
        if must_be_file || unit.contains('/') {
            return Err(fault(format!("there is no file {unit}"), "give the path of a unit file"));
        }
        return Ok(Asked { name, file: None });
    };
    let read = || -> anyhow::Result<String> {
        if std::fs::metadata(&file)?.len() > UNIT_BYTES_MAX {
            return Err(fault(format!("it has more than {UNIT_BYTES_MAX} bytes"), "is it a unit file?"));
        }
        Ok(std::fs::read_to_string(&file)?)
    };
    let text =
        read().with_context(|| format!("cannot read {}", file.display())).hint("a unit file is text")?;
    Ok(Asked { name, file: Some(text) })
}

/// The texts of what was asked for. What cannot be had is told, and the second value is false then.
fn wanted(known: &[Known<'_>], asked: Vec<Asked>, replace: bool, output: &mut Output) -> (Vec<Wanted>, bool) {
    let mut wanted = Vec::new();
    let mut fine = true;
    for Asked { name, file } in asked {
        let mut there = text_of(known, &name);
        if let (Some(text), Some(file)) = (&there, &file)
            && text != file
            && !replace
        {
            output.note(&format!(
                "WARNING: Unit {name} in registry differs from local unit file {name}. Add --replace to override."
            ));
        } else if file.is_some() {
            there = None;
        }
        if there.is_none()
            && let Some(error) = file.as_deref().and_then(unreadable)
        {
            tell_failure(&name, &error, output);
            fine = false;
            continue;
        }
        let Some(text) = there.or(file) else {
            tell_failure(&name, &fault("no machine knows this unit", "give the path of its file"), output);
            fine = false;
            continue;
        };
        match Requirements::read(&name, &text) {
            Ok(asks) => {
                for key in &asks.unknown {
                    output.note(&format!(
                        "WARNING: {name}: unrecognized requirement in [X-Fleet] section: {key:?}"
                    ));
                }
                wanted.push(Wanted { name, text, asks });
            }
            Err(error) => {
                let error =
                    fault(error, "correct its [X-Fleet] section; `corediscover lint` explains the rules");
                tell_failure(&name, &error, output);
                fine = false;
            }
        }
    }
    (wanted, fine)
}

/// Why a text is none of a unit: a line that fleet refuses, and systemd leaves out.
fn unreadable(text: &str) -> Option<anyhow::Error> {
    let breaks = |finding: &Finding| matches!(finding.rule, Rule::NotAnOption | Rule::OptionBeforeSection);
    let finding = lint(Language::Unit, text).into_iter().find(breaks)?;
    Some(fault(format!("line {}: {}", finding.line, finding.reason), finding.fix))
}

/// Finds the machines for all units; what has no machine is told, and the answer is false then.
fn place(
    fleet: &Fleet,
    wanted: &[Wanted],
    work: &mut Work,
    output: &mut Output,
    step: impl Fn(&Wanted, usize) -> (Step, String),
) -> bool {
    let missing: Vec<&str> = fleet.failed.iter().map(String::as_str).collect();
    let mut fine = true;
    for (unit, places) in wanted.iter().zip(schedule(&fleet.known(), wanted, &missing)) {
        match places {
            Ok(places) => {
                for (at, number) in places.into_iter().enumerate() {
                    let (step, said) = step(unit, number);
                    // A global unit is told of once.
                    let said = (at == 0 || !unit.asks.global).then_some(said);
                    work.entry(number).or_default().push((unit.name.clone(), step, said));
                }
            }
            Err(why) => {
                let advice = "`corediscover fleet list-machines` shows the metadata, `list-unit-files` where units are";
                tell_failure(&unit.name, &fault(why, advice), output);
                fine = false;
            }
        }
    }
    fine
}

/// Does one step with units that are somewhere.
fn change(
    machines: &MachineArgs,
    units: &[String],
    output: &mut Output,
    step: Step,
    verb: &str,
    said: impl Fn(&str, &str) -> String,
) -> anyhow::Result<u8> {
    let mut fleet = Fleet::reach(machines, output)?;
    let mut work = Work::new();
    let mut fine = true;
    for unit in units {
        let known = fleet.known();
        let places = homes(&known, unit);
        if places.is_empty() {
            tell_failure(
                unit,
                &fault(
                    "no machine that answered has this unit",
                    "`corediscover fleet list-unit-files` lists all",
                ),
                output,
            );
            fine = false;
        }
        let global = text_of(&known, unit)
            .is_some_and(|text| Requirements::read(unit, &text).is_ok_and(|asks| asks.global));
        for (at, number) in places.into_iter().enumerate() {
            let on = tables::place(&fleet.machines[number].place(), &View::default());
            let has = |there: &&UnitRecord| there.name == *unit && there.desired == Desired::Inactive;
            let is_only_submitted = fleet.machines[number].survey.units.iter().any(|there| has(&there));
            let line = match step {
                Step::Stop { .. } if is_only_submitted && !global => Some(format!("Unit {unit} inactive")),
                Step::Destroy => (at == 0).then(|| said(unit, &on)),
                _ if global => (at == 0).then(|| format!("Triggered global unit {unit} {verb}")),
                _ => Some(said(unit, &on)),
            };
            work.entry(number).or_default().push((unit.clone(), step.clone(), line));
        }
    }
    finish(&mut fleet, &work, fine, output)
}

/// Does all the work, all machines at once, and tells what came of it.
fn finish(fleet: &mut Fleet, work: &Work, fine: bool, output: &mut Output) -> anyhow::Result<u8> {
    let mut fine = fine;
    let numbers: Vec<usize> = work.keys().copied().collect();
    let done = fleet.on(
        &numbers,
        |number, machine| {
            machine.check_root()?;
            // One that fails is no reason to leave the others out.
            Ok(work[&number].iter().map(|(unit, step, _)| machine.carry_out(unit, step)).collect::<Vec<_>>())
        },
        |results| match results.iter().filter(|result| result.is_ok()).count() {
            0 => None,
            1 => Some("1 unit done".to_owned()),
            count => Some(format!("{count} units done")),
        },
        output,
    );
    for (number, results) in done {
        for ((_, _, said), result) in work[&number].iter().zip(results) {
            match (result, said) {
                (Ok(()), Some(said)) => output.data(&format!("{said}\n"))?,
                (Ok(()), None) => {}
                (Err(error), _) => {
                    tell_failure(&fleet.machines[number].target.name, &error, output);
                    fine = false;
                }
            }
        }
    }
    Ok(if fine { fleet.code() } else { EXIT_FAILED })
}

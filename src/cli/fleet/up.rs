//! `fleet up`: plain machines become a cluster whose servers are named: no etcd, no user-data.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::machines::{Chosen, MachineArgs, time};
use super::{Fleet, tell_failure};
use crate::cli::{EXIT_FAILED, Output, Usage};
use crate::fleet::up::{Done, JOURNAL_LINES, LOOK_INTERVAL, Units};
use crate::fleet::{Machine, on_all};
use crate::hint::{WithHint as _, advise, fault};
use crate::model::fleet::formation::{
    Asked, Facts, HEAD, Plan, Role, Shared, architecture_of, outsiders, plan,
};
use crate::model::fleet::machines::parse_list;
use crate::model::names::Datacenter;
use crate::model::provision::Spec;
use crate::model::provision::binary::BINARY_PATH;
use crate::model::provision::etcd::Etcd;
use crate::model::provision::spec::{AddressSource, DnsPort, Domain, Servers};
use crate::model::provision::units::{AGENT, Manager, Place, UnitFile, has_use, unit_files, unit_files_at};
use anyhow::Context as _;

/// This very program.
const OWN_BINARY: &str = "/proc/self/exe";

/// Arguments of `up`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The machines as [user@]host[:port]; the first are the servers. Or use --machines or --vagrant.
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// How many servers begin the cluster [default: 3, or 1 of fewer than three machines].
    #[arg(long, value_name = "N")]
    servers: Option<Servers>,
    /// The binary to bring [default: this one].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Name of the datacenter [default: that of the cluster, dc1 for a new one].
    #[arg(long, value_name = "NAME")]
    datacenter: Option<Datacenter>,
    /// The domain that DNS serves [default: that of the cluster, consul for a new one].
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<Domain>,
    /// The new machines' DNS port; 53 where systemd is older than 246 [default: that of the cluster, 8600 for a new one].
    #[arg(long, value_name = "PORT")]
    dns_port: Option<DnsPort>,
    /// How long the machines may take to become one cluster.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    wait: String,
}

/// Runs the command.
pub(super) fn run(machines: MachineArgs, args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let wait = time("--wait", &args.wait, "--wait is not understood")?;
    let binary = read_binary(args.binary.as_deref())?;
    let architecture = architecture_of(&binary)
        .ok_or_else(|| fault("the binary is none for Linux", "give the one of a release with --binary"))?;
    let targets = match (args.hosts.is_empty(), machines.are_named()) {
        (false, true) => {
            let error =
                fault("machines are named twice", "name them after `up`, or with --machines or --vagrant");
            return Err(error.context(Usage("fleet up does not know which machines")));
        }
        (false, false) => {
            let parsed = parse_list(&args.hosts.join(",")).map_err(anyhow::Error::from);
            let targets = parsed.map_err(|error| error.context(Usage("the machines are not understood")))?;
            Chosen { targets, failed: Vec::new() }
        }
        (true, _) => machines.targets()?,
    };
    let mut fleet = Fleet::reach_these(&targets, &machines, output)?;
    let all: Vec<usize> = (0..fleet.machines.len()).collect();
    let facts = fleet.on(&all, |_, machine| machine.facts(architecture), |_| None, output);
    // A server that is missing now would be missing in every unit: all or none.
    if !fleet.failed.is_empty() {
        let error = fault(
            format!("nothing was changed: {} cannot be set up", fleet.failed.join(", ")),
            "repair what is said above, or leave these machines out, and give the command again",
        );
        return Err(error);
    }
    let facts: Vec<Facts> = facts.into_iter().map(|(_, facts)| facts).collect();
    let asked = Asked {
        servers: args.servers,
        datacenter: args.datacenter,
        domain: args.domain,
        dns_port: args.dns_port,
    };
    let plan = plan(&facts, &asked).map_err(|error| {
        advise(error.into(), "nothing was changed; give the command again when it is put right")
    })?;
    for note in plan.settings.notes.iter().cloned().chain(facts.iter().flat_map(Facts::left_out)) {
        output.note(&note);
    }
    let units = facts
        .iter()
        .enumerate()
        .map(|(number, facts)| units(&plan, number, facts, output))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let done = fleet.on(
        &all,
        |number, machine| machine.set_up(&binary, &units[number], &facts[number]),
        |done| Some(told(*done)),
        output,
    );
    if done.is_empty() {
        return Ok(EXIT_FAILED);
    }
    // One after the other, each when the one before is back: the cluster goes on all the while.
    let old: Vec<usize> =
        done.iter().filter(|(_, done)| done.to_restart).map(|(number, _)| *number).collect();
    for (at, number) in old.iter().enumerate() {
        let restart = |_, machine: &Machine| machine.restart(wait);
        // One that does not come back with the new binary is enough: the others keep the cluster up.
        let (works, others) = if until_formed(&fleet, &facts, wait, output) {
            (
                !fleet.on(&[*number], restart, |()| Some("restarted".to_owned()), output).is_empty(),
                &old[at + 1..],
            )
        } else {
            (false, &old[at..])
        };
        if !works {
            let names: Vec<&str> =
                others.iter().map(|number| fleet.machines[*number].target.name.as_str()).collect();
            let left = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(fault(
                format!("the restarts end here; still with the binary of before: {left}"),
                "repair what is said above and give the command again: it goes on from there; with --binary it can bring \
                 the binary of before",
            ));
        }
    }
    if !until_formed(&fleet, &facts, wait, output) {
        return Ok(EXIT_FAILED);
    }
    tell_members(&fleet, output)?;
    Ok(fleet.code())
}

fn read_binary(named: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let path = named.unwrap_or(Path::new(OWN_BINARY));
    std::fs::read(path)
        .with_context(|| format!("cannot read the binary {}", path.display()))
        .hint("--binary names the file to bring to the machines")
}

fn told(done: Done) -> String {
    let units = match done.units {
        0 => None,
        1 => Some("1 unit".to_owned()),
        count => Some(format!("{count} units")),
    };
    let stays = done.is_member || units.is_none();
    let parts: Vec<String> = done.binary.then(|| "the binary".to_owned()).into_iter().chain(units).collect();
    let brought = (!parts.is_empty()).then(|| format!("brought {}", parts.join(" and ")));
    let started = (done.started && stays)
        .then(|| "its agent was down and is started again; its units and data stay".to_owned());
    let told: Vec<String> = brought.into_iter().chain(started).collect();
    if told.is_empty() { "nothing to change".to_owned() } else { told.join("; ") }
}

/// The units that a machine gets. A member keeps those that it has, and gets those for what came later, such as Docker.
fn units(plan: &Plan, number: usize, facts: &Facts, output: &mut Output) -> anyhow::Result<Units> {
    let part = &plan.parts[number];
    let spec = Spec { fleet: false, binary: format!("path={BINARY_PATH}").parse()?, ..Spec::default() };
    let has_use = |unit: &UnitFile| has_use(unit.name, facts.docker, facts.resolved);
    let Some(role) = part.becomes else {
        let shared = Shared::of(facts.unit.as_deref().unwrap_or_default());
        let Shared { domain, dns_port, client } = shared.clone().unwrap_or_default();
        let files = unit_files(&Spec { domain, dns_port, client, ..spec }, Manager::Systemd)?;
        let is_lacking =
            |unit: &UnitFile| unit.name != AGENT && has_use(unit) && !facts.units.contains(&unit.name);
        let lacking: Vec<UnitFile> = files.into_iter().filter(is_lacking).collect();
        return Ok(Units::Lacking(match shared {
            Err(strange) if !lacking.is_empty() => {
                let names: Vec<&str> = lacking.iter().map(|unit| unit.name).collect();
                output.note(&format!(
                    "{}: {AGENT} says `{strange}`, which is not understood here: not written are {}; `corediscover units \
                     --only UNIT` writes them",
                    facts.name,
                    names.join(", ")
                ));
                Vec::new()
            }
            _ => lacking,
        }));
    };
    let spec = Spec {
        servers: plan.servers,
        etcd: Etcd::Absent { join: plan.join.iter().map(|address| (*address).into()).collect() },
        datacenter: plan.settings.datacenter.clone(),
        domain: plan.settings.domain.clone(),
        address: AddressSource::Auto,
        dns_port: plan.settings.dns_port,
        ..spec
    };
    let place = Place { head: HEAD, advertise: part.address, is_server: role == Role::Server };
    Ok(Units::All(unit_files_at(&spec, place)?.into_iter().filter(has_use).collect()))
}

/// Waits until all agents know one leader and see each other alive; tells who does not when that takes too long.
fn until_formed(fleet: &Fleet, facts: &[Facts], wait: Duration, output: &mut Output) -> bool {
    let end = Instant::now() + wait;
    let has_failed = |number: &usize| fleet.failed.contains(&fleet.machines[*number].target.name);
    let awaited: Vec<usize> = (0..fleet.machines.len()).filter(|number| !has_failed(number)).collect();
    let hostnames: Vec<&str> = awaited.iter().map(|number| facts[*number].hostname.as_str()).collect();
    let outside = loop {
        // One whose connection is lost meanwhile says nothing, and is outside.
        let status = |number: &usize| {
            let answer = fleet.machines[*number].ask_agent(&["status", "--json"]).ok().flatten();
            answer.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
        };
        let outside = outsiders(&on_all(&awaited, status, |_, _| {}), &hostnames);
        if outside.is_empty() || Instant::now() >= end {
            break outside;
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    for at in &outside {
        let machine = &fleet.machines[awaited[*at]];
        let journal = machine.journal(AGENT, JOURNAL_LINES).unwrap_or_else(|error| format!("{error:#}"));
        let error = fault(
            format!(
                "it is no member of a cluster with a leader after {wait:?}; its agent says:\n{}",
                journal.trim_end()
            ),
            "the machines must reach each other on ports 8300 (TCP) and 8301 (TCP and UDP): is there a firewall? The \
             command can be given again",
        );
        tell_failure(&machine.target.name, &error, output);
    }
    outside.is_empty()
}

fn tell_members(fleet: &Fleet, output: &mut Output) -> anyhow::Result<()> {
    for machine in &fleet.machines {
        if let Some(table) = machine.ask_agent(&["members"])? {
            output.data(&table)?;
            output.note(
                "next, on any of these machines: `/opt/bin/corediscover status` shows the cluster, and \
                 `/opt/bin/corediscover catalog services` what runs in it.\n\
                 `corediscover fleet up` with one more machine at the end of the list adds that machine.",
            );
            return Ok(());
        }
    }
    Err(fault("no agent lists the members any more", "`corediscover fleet up` can be given again"))
}

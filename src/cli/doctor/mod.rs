//! `corediscover doctor`: what commonly goes wrong on a machine, looked for one by one.
//!
//! It changes nothing, and needs nothing: neither an agent, nor Docker, nor etcd, nor systemd. Whatever cannot be looked at
//! is said, and every call that could hang has a bound in time.

mod cluster;
mod machine;
mod missing;
mod names;
mod settings;
mod store;

use std::path::PathBuf;

use serde_json::json;

use super::bootstrap::EtcdArgs;
use super::{EXIT_FAILED, EXIT_FINE, Output, block_on};
use crate::model::address::AddressSource;
use crate::model::doctor::{Check, Level, Report, address, clock, docker, files, open_docker, ports, units};
use crate::model::doctor::{cluster as agreement, etcd, identity, keys, resolver};
use crate::model::provision::units::AGENT;
use settings::Settings;

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: EtcdArgs,
    /// The file that holds this machine's id.
    #[arg(long, value_name = "FILE")]
    machine_id_file: Option<PathBuf>,
    /// What the agent was told to tell the others, as `bootstrap --advertise` takes it.
    #[arg(long, value_name = "ADDR|SOURCE")]
    advertise: Option<String>,
    /// Where the machine keeps its state.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The agent's domain.
    #[arg(long)]
    domain: Option<String>,
    /// The port of the agent's DNS.
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
    /// Address of the agent: `host:port`, `http://host:port` or `unix:///path`.
    #[arg(long, env = "CONSUL_HTTP_ADDR")]
    http_addr: Option<String>,
    /// Where Docker is; the registrator's unit says it, or the usual socket is taken.
    #[arg(long, value_name = "URL", env = "DOCKER_HOST")]
    docker_host: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; exit code 1 when there is an error, not for warnings.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let as_json = args.json;
    let settings = Settings::find(args)?;
    let report = block_on(async { Ok(Box::pin(examine(settings)).await) })?;
    let (errors, warnings) = (report.count(Level::Error), report.count(Level::Warning));
    let text = if as_json {
        let document = json!({
            "settings": report.settings, "checks": report.checks, "errors": errors, "warnings": warnings,
        });
        format!("{document:#}\n")
    } else {
        report.to_string()
    };
    output.data(&text)?;
    Ok(if errors == 0 { EXIT_FINE } else { EXIT_FAILED })
}

/// Looks at everything, as much as possible at once, and judges it.
async fn examine(settings: Settings) -> Report {
    let client = settings.client();
    let (agent, store, listeners, resolver, docker, units, disk) = tokio::join!(
        cluster::ask(client),
        store::ask(&settings),
        machine::listeners(),
        names::ask(&settings),
        machine::docker(&settings),
        machine::units(&settings),
        machine::disk(&settings),
    );
    let is_plain = resolver.as_ref().is_ok_and(|found| found.is_plain);
    let (open, inside, clock, library, said, firewall) = tokio::join!(
        machine::open_docker(&listeners),
        names::inside(&settings, &docker, &resolver),
        machine::clock(&store),
        names::library(&settings),
        names::said(&settings, &resolver),
        names::find_firewall(),
    );
    let files = machine::files(&settings).await;
    let answers = agent.is_ok();
    let units = match units {
        Ok(found) => units::judge(&units::Facts { agent_answers: answers, ..found }),
        Err(why) => Check::not_checked(units::NAME, why),
    };
    let should_answer = settings.has_unit(AGENT) && units.findings.is_empty();
    let members =
        agent.as_ref().map(|agent| agent.members.clone()).map_err(|_| "no agent answers".to_owned());
    let view = store.view();
    let checks = vec![
        units,
        listeners.as_ref().map_or_else(
            |why| Check::not_checked(ports::NAME, why),
            |listeners| ports::judge(&settings.needed_ports(is_plain), listeners, answers),
        ),
        agreement::judge(&agreement::Facts {
            agent: settings.http.to_string(),
            told: agent.as_ref().map(|agent| agent.told.clone()).map_err(Clone::clone),
            should_answer,
        }),
        judge_address(&settings, &agent),
        but_for(
            disk.unread.clone(),
            identity::judge(&identity::Facts {
                path: settings.machine_id_file.display().to_string(),
                file: disk.machine_id,
                data_dir: settings.data_dir.display().to_string(),
                own_disk: disk.incarnation,
                own_addresses: disk.addresses,
                claims: view.clone().map(|view| view.claims),
                members: members.clone(),
            }),
        ),
        etcd::judge(&store.facts()),
        but_for(
            disk.unread,
            keys::judge(&keys::Facts {
                view,
                members,
                cluster: agent.as_ref().ok().and_then(|agent| agent.cluster.clone()).or(disk.cluster),
                prefix: store.prefix.clone(),
                remove: store.remove(),
            }),
        ),
        match resolver {
            Ok(found) => resolver::judge(&found.facts(&settings, &docker, library, inside, said, firewall)),
            Err(why) => Check::not_checked(resolver::NAME, why),
        },
        docker.as_ref().map_or_else(|why| Check::not_checked(docker::NAME, why), docker::judge),
        open.as_ref().map_or_else(|why| Check::not_checked(open_docker::NAME, why), open_docker::judge),
        clock::judge(&clock),
        files.as_ref().map_or_else(
            |why| Check::not_checked(files::NAME, why),
            |found| files::judge(&found.entries, &found.unread),
        ),
    ];
    Report { settings: settings.sources, checks }
}

/// The check, without what could not be read.
fn but_for(unread: Option<String>, check: Check) -> Check {
    match unread {
        Some(why) => check.but_not(why),
        None => check,
    }
}

fn judge_address(settings: &Settings, agent: &Result<cluster::Agent, String>) -> Check {
    let machine = match crate::host::address::facts() {
        Ok(machine) => machine,
        Err(error) => return Check::not_checked(address::NAME, crate::hint::causes(&error)),
    };
    let told = agent.as_ref().map(|agent| agent.address).map_err(|_| "no agent answers".to_owned());
    // Nobody says what a machine without our units is to tell: what its agent tells is judged.
    let unsaid = || match told {
        Ok(address) => address::Advertise::Fixed(address),
        Err(_) => address::Advertise::Source(AddressSource::Auto),
    };
    let advertise = settings.advertise.clone().unwrap_or_else(unsaid);
    let show = format!("{} address", settings.program);
    let unit = settings.file_of(AGENT).map(|path| path.display().to_string());
    address::judge(&address::Facts { advertise, told, machine, unit, show })
}

//! `corediscover up`: a whole cluster of machines on loopback, one child process each.
//!
//! Every machine has an address of its own and Consul's ports. Ctrl-C stops all and leaves nothing behind.

mod check;
mod dns_probe;
mod machine;
mod screen;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::status::{self, Status};
use super::{EXIT_FAILED, EXIT_FINE, Output, Usage, block_on, signals};
use crate::hint::fault;
use machine::{Cluster, Coordinator};

/// Most machines on one loopback network: more say nothing new and need gigabytes.
const MACHINES_MAX: u8 = 50;
/// Servers of a cluster that has so many machines or more; smaller ones have what they have.
const SERVERS: u8 = 3;
/// How often the cluster is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the table may be printed while things change.
const PRINT_INTERVAL: Duration = Duration::from_millis(500);
/// How long `--check` waits for the whole cluster; ready is meant to be 5 s on an idle machine.
const CHECK_DEADLINE: Duration = Duration::from_mins(1);

/// Arguments of `up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many machines.
    #[arg(long, default_value_t = 3)]
    machines: u8,
    /// Address of the first machine; the others follow it.
    #[arg(long, default_value = "127.0.1.1")]
    base: Ipv4Addr,
    /// Let the machines meet in this etcd instead of the embedded coordinator.
    #[arg(long)]
    etcd: Option<String>,
    /// Do not register what Docker runs.
    #[arg(long)]
    no_docker: bool,
    /// Keep the machines' data here; otherwise it is in a temporary folder that goes at the end.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Start, check that everything works, stop; exit code 1 with what is missing.
    #[arg(long)]
    check: bool,
    /// Print the summary of --check, or each state, as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let addresses =
        addresses(args.base, args.machines).map_err(|error| error.context(Usage("cannot run a cluster")))?;
    let scratch = match &args.data_dir {
        Some(folder) => machine::DataFolder::keep(folder)?,
        None => machine::DataFolder::temporary()?,
    };
    let coordinator = match &args.etcd {
        Some(url) => Coordinator::Etcd(url.clone()),
        None => Coordinator::Embedded(scratch.path().join("coordinator.json")),
    };
    let docker = !args.no_docker && machine::docker_answers();
    block_on(async {
        let stop = signals::stop_request(signals::ignore_hangup)?;
        tokio::pin!(stop);
        let servers = SERVERS.min(args.machines);
        let mut cluster = Cluster::start(&addresses, servers, &coordinator, &scratch, docker)?;
        let result = tokio::select! {
            _ = &mut stop => Ok(EXIT_FINE),
            result = watch(&args, &addresses, docker, &mut cluster, output) => result,
        };
        cluster.stop().await?;
        result
    })
}

async fn watch(
    args: &Args,
    addresses: &[Ipv4Addr],
    docker: bool,
    cluster: &mut Cluster,
    output: &mut Output,
) -> anyhow::Result<u8> {
    let started = Instant::now();
    if args.check {
        let deadline = started + CHECK_DEADLINE;
        let ready = until_ready(addresses, cluster, deadline).await;
        let report = match ready {
            Ok(status) => check::run(addresses, status, started, deadline).await,
            Err(error) => Err(error),
        };
        return match report {
            Ok(report) => {
                output.data(&if args.json { report.json()? } else { report.text() })?;
                Ok(EXIT_FINE)
            }
            Err(error) => {
                if args.json {
                    output.data(&format!(
                        "{}\n",
                        serde_json::json!({ "ok": false, "missing": crate::hint::causes(&error) })
                    ))?;
                }
                output.note(&crate::hint::report(&error));
                cluster.show_logs(output);
                Ok(EXIT_FAILED)
            }
        };
    }
    let mut screen = screen::Screen::new(args.json);
    let mut ready = false;
    loop {
        cluster.complain_about_the_dead()?;
        if let Some(status) = look(addresses).await {
            screen.show(output, &status)?;
            if !ready && is_ready(&status, addresses.len()) {
                ready = true;
                screen.next_commands(output, addresses, docker, started.elapsed())?;
            }
        }
        tokio::time::sleep(if ready { PRINT_INTERVAL } else { LOOK_INTERVAL }).await;
    }
}

/// The state as the first machine that answers sees it.
async fn look(addresses: &[Ipv4Addr]) -> Option<Status> {
    for address in addresses {
        let client = machine::client(*address).ok()?;
        if let Ok(status) = status::read(&client).await {
            return Some(status);
        }
    }
    None
}

fn is_ready(status: &Status, machines: usize) -> bool {
    !status.leader.is_empty()
        && status.members.iter().filter(|member| member.status == "alive").count() >= machines
}

/// Waits for one leader and all nodes passing, as each machine itself says.
async fn until_ready(
    addresses: &[Ipv4Addr],
    cluster: &mut Cluster,
    deadline: Instant,
) -> anyhow::Result<Status> {
    loop {
        cluster.complain_about_the_dead()?;
        let missing = match check::missing(addresses).await {
            Ok(()) => {
                return look(addresses).await.context("no machine answers any more");
            }
            Err(missing) => missing,
        };
        if Instant::now() >= deadline {
            return Err(missing.context(format!("the cluster was not ready within {CHECK_DEADLINE:?}")));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn addresses(base: Ipv4Addr, machines: u8) -> anyhow::Result<Vec<Ipv4Addr>> {
    if machines == 0 || machines > MACHINES_MAX {
        return Err(fault(format!("--machines {machines}: 1 to {MACHINES_MAX} are possible"), "3 are usual"));
    }
    if !base.is_loopback() {
        return Err(fault(
            format!("--base {base} is not a loopback address"),
            "use 127.x.y.z; to run on real machines, see `corediscover cloud-config` and `units`",
        ));
    }
    let [a, b, c, d] = base.octets();
    let Some(last) = d.checked_add(machines - 1).filter(|last| *last < u8::MAX) else {
        return Err(fault(
            format!("--base {base} leaves no room for {machines} machines in 127.{b}.{c}.0/24"),
            format!("begin lower: --base 127.{b}.{c}.1"),
        ));
    };
    Ok((d..=last).map(|d| Ipv4Addr::new(a, b, c, d)).collect())
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn machines_follow_the_base_address() {
        let list = addresses([127, 0, 1, 1].into(), 3).unwrap();
        assert_eq!(
            list.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
        );
    }

    #[test]
    fn impossible_clusters_are_refused() {
        assert!(addresses([10, 0, 0, 1].into(), 3).is_err());
        assert!(addresses([127, 0, 1, 254].into(), 3).is_err());
        assert!(addresses([127, 0, 1, 1].into(), 0).is_err());
    }
}

//! `corediscover bootstrap`: meets the other machines, then runs the agent as what was decided.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use super::local_agent::{Checked, LocalAgent};
use super::{EXIT_FINE, Output, Usage, block_on, logging, signals};
use crate::agent::config::Fragment;
use crate::bootstrap::version::Space;
use crate::bootstrap::{self, Api, CLAIM_TTL, ClaimStore, Embedded, Etcd, Settings, Tls, keys};
use crate::hint::fault;
use crate::host::{address, machine_id};
use crate::model::address::{AddressSource, Choice, interface_name};
use crate::model::election::birth::Patience;
use crate::model::names::MachineId;
use crate::model::provision::endpoint::{Endpoint, TlsFiles};
use crate::model::sync::servers::SERVERS_MAX;
use crate::tasks::Tasks;

/// Where etcd is, and how it is used.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct EtcdArgs {
    /// Where etcd answers; several URLs are separated by commas.
    #[arg(long, value_name = "URL", value_delimiter = ',', group = "store")]
    pub(super) etcd: Vec<Endpoint>,
    /// Which of etcd's APIs to use; `auto`: v3, or v2 where etcd's version is below 3.0. The same for all machines.
    #[arg(long, value_name = "v2|v3|auto", value_enum, default_value = "auto", hide_possible_values = true)]
    pub(super) etcd_api: EtcdApi,
    /// The authority that signed etcd's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub(super) etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(super) etcd_cert: Option<PathBuf>,
    /// The key of our certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(super) etcd_key: Option<PathBuf>,
    /// Where in etcd the machines meet.
    #[arg(long, value_name = "PREFIX", default_value = keys::DEFAULT_PREFIX)]
    pub(super) prefix: String,
}

impl EtcdArgs {
    /// The URLs, with their ports.
    pub(super) fn endpoints(&self) -> Vec<String> {
        self.etcd.iter().map(ToString::to_string).collect()
    }
}

/// Arguments of `bootstrap`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("store").required(true)), group(clap::ArgGroup::new("id").required(true)))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) etcd: EtcdArgs,
    /// Meet in this file instead: all machines of the cluster are processes of this machine.
    #[arg(long, value_name = "FILE", group = "store")]
    embedded: Option<PathBuf>,
    /// This machine's id.
    #[arg(long, value_name = "ID", group = "id")]
    pub(super) machine_id: Option<MachineId>,
    /// The file that holds this machine's id, as /etc/machine-id does.
    #[arg(long, value_name = "FILE", group = "id")]
    pub(super) machine_id_file: Option<PathBuf>,
    /// The address at which the other machines reach this one, or where the machine finds it: `auto`, `private`, `public`,
    /// `interface:NAME` or a template such as `{{ GetInterfaceIP "eth0" }}`. `corediscover address` shows what each gives.
    #[arg(long, value_name = "ADDR|SOURCE", required_unless_present = "interface")]
    pub(super) advertise: Option<String>,
    /// Advertise the first usable address of this interface; the same as `--advertise interface:NAME`.
    #[arg(long, value_name = "NAME", conflicts_with = "advertise")]
    pub(super) interface: Option<String>,
    /// How many machines become the first servers: 3 or 5.
    #[arg(long, value_name = "N")]
    expect: usize,
    /// Where the machine keeps its state.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// Flags for the agent, after `--`.
    #[arg(last = true, value_name = "AGENT FLAGS")]
    pub(super) agent_flags: Vec<String>,
}

/// The value of `--etcd-api`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum EtcdApi {
    V2,
    V3,
    Auto,
}

impl From<EtcdApi> for Api {
    fn from(api: EtcdApi) -> Self {
        match api {
            EtcdApi::V2 => Self::Only(Space::V2),
            EtcdApi::V3 => Self::Only(Space::V3),
            EtcdApi::Auto => Self::Auto,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, _output: &mut Output) -> anyhow::Result<u8> {
    let Advertised { address, choice } = advertised(&args)?;
    let decided = Fragment {
        data_dir: Some(args.data_dir.clone()),
        advertise_addr: Some(address.to_string()),
        ..Fragment::default()
    };
    let checked = Checked::new(&args.agent_flags, decided)
        .map_err(|error| error.context(Usage("bootstrap cannot start like this")))?;
    let level = logging::start(&checked.settings.log_level)?;
    if let Some(choice) = choice {
        tracing::info!("this machine tells the others the address {address}: {}", choice.reason);
        choice.warning.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let settings = settings(&args, address, checked.settings.node_name.clone())?;
    let runner = LocalAgent::new(checked, level);
    let store = store(&args)?;
    block_on(async move {
        let source = runner.source();
        let stop_request = signals::stop_request(move || source.ask())?;
        let tasks = Tasks::default();
        let spawner = tasks.spawner();
        let stop = tasks.stop_token();
        tasks.start("bootstrap", async move {
            let ended = bootstrap::run(settings, store, Arc::new(runner), &spawner).await;
            if ended.is_ok() {
                // The agent has left the cluster because somebody told it to: that is a fine end.
                stop.cancel();
            }
            ended
        });
        tasks.run_until(stop_request).await
    })?;
    Ok(EXIT_FINE)
}

fn settings(args: &Args, address: IpAddr, name: String) -> anyhow::Result<Settings> {
    let machine_id = match (&args.machine_id, &args.machine_id_file) {
        (Some(machine_id), _) => machine_id.clone(),
        (None, Some(file)) => machine_id::read(file)?,
        (None, None) => bail!("no machine-id was given"),
    };
    if !(1..=usize::from(SERVERS_MAX)).contains(&args.expect) {
        return Err(usage(
            format!("--expect {} is not between 1 and {SERVERS_MAX}", args.expect),
            "3 first servers survive the loss of one, 5 of two",
        ));
    }
    if args.expect.is_multiple_of(2) {
        tracing::warn!(
            "--expect {} survives no more failures than {}: odd numbers are better",
            args.expect,
            args.expect - 1
        );
    }
    Ok(Settings {
        machine_id,
        address: address.to_string(),
        name,
        expect: args.expect,
        data_dir: args.data_dir.clone(),
        patience: Patience::default(),
    })
}

/// The address, and how it was chosen where the machine chose it.
struct Advertised {
    address: IpAddr,
    choice: Option<Choice>,
}

fn advertised(args: &Args) -> anyhow::Result<Advertised> {
    let source = match (&args.advertise, &args.interface) {
        (Some(text), _) => match text.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                return Ok(Advertised { address, choice: None });
            }
            Ok(_) => {
                return Err(usage(
                    format!("--advertise {text} is not an address that other machines can reach"),
                    "give an IP address of this machine, or `auto`",
                ));
            }
            Err(_) => text.parse::<AddressSource>().map_err(|error| {
                usage(format!("--advertise: {error}"), "or give an IP address of this machine")
            })?,
        },
        (None, Some(name)) => AddressSource::Interface(
            interface_name(name)
                .map_err(|error| usage(format!("--interface: {error}"), "see `ip address`"))?,
        ),
        (None, None) => AddressSource::Auto,
    };
    let choice = address::resolve(&source)?;
    Ok(Advertised { address: choice.address, choice: Some(choice) })
}

fn store(args: &Args) -> anyhow::Result<Arc<dyn ClaimStore>> {
    if let Some(file) = &args.embedded {
        // All processes of the machine share its wall clock.
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        return Ok(Arc::new(Embedded::in_file(file, Arc::new(clock), CLAIM_TTL).store()));
    }
    Ok(Arc::new(etcd(&args.etcd)?.0))
}

/// Connects when first used; with the URLs as they are used, and what TLS needs.
pub(super) fn etcd(args: &EtcdArgs) -> anyhow::Result<(Etcd, Vec<String>, Option<Tls>)> {
    if !args.prefix.starts_with('/') || args.prefix.trim_end_matches('/').is_empty() {
        return Err(usage(
            format!("--prefix {} is not a path of keys", args.prefix),
            format!("give one like `{}`", keys::DEFAULT_PREFIX),
        ));
    }
    let given =
        TlsFiles { ca: args.etcd_ca.as_ref(), cert: args.etcd_cert.as_ref(), key: args.etcd_key.as_ref() };
    let files = given.for_endpoints(&args.etcd).map_err(|error| usage(error, error.advice()))?;
    let tls = match files {
        Some(files) => Some(Tls {
            authority: read_pem(files.ca)?,
            identity: match files.identity {
                Some((certificate, key)) => Some((read_pem(certificate)?, read_pem(key)?)),
                None => None,
            },
        }),
        None => None,
    };
    let endpoints = args.endpoints();
    let etcd = Etcd::new(endpoints.clone(), &args.prefix, tls.clone(), CLAIM_TTL, args.etcd_api.into())?;
    Ok((etcd, endpoints, tls))
}

fn read_pem(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn usage(message: impl std::fmt::Display, advice: impl std::fmt::Display) -> anyhow::Error {
    fault(message, advice).context(Usage("bootstrap cannot start like this"))
}

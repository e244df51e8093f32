//! From settings to what each part wants to know, for the composition root.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::config::{Definition, HttpAddress, Settings};
use super::consensus::Server;
use super::dns::{DnsSettings, Strategy};
use super::handle::{Identity, ReloadRequest};
use super::{http, local};
use crate::hint::{WithHint as _, fault};
use crate::host::disk::{Disk, Held, HostDisk};
use crate::host::files::{
    MODE_PRIVATE, create_private_folder, create_private_folder_on, lock as lock_folder, read_if_there_on,
    write_atomic_on,
};
use crate::host::outside::random_bits;
use crate::model::dns::{Name, Policy, SoaPolicy};
use crate::model::election::Incarnation;
use crate::model::sync::{ServiceRegistration, agent_node};
use crate::tasks::Spawner;

/// File that holds the incarnation, a UUID that is lost with the disk.
const INCARNATION_FILE: &str = "incarnation";
/// File that is locked while an agent uses the data directory.
const LOCK_FILE: &str = "agent.lock";
/// DNS port of recursors that are given without one.
const RECURSOR_PORT: u16 = 53;

/// Where the agent listens.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    pub(super) gossip: SocketAddr,
    pub(super) rpc: Option<SocketAddr>,
    pub(super) dns: Vec<SocketAddr>,
    pub(super) http: Vec<SocketAddr>,
}

/// Takes the data directory for this agent, until the file is dropped: two agents would overwrite each other's state.
pub(super) fn lock(settings: &Settings) -> anyhow::Result<Option<Box<dyn Held>>> {
    let Some(folder) = &settings.data_dir else { return Ok(None) };
    let advice = "give a folder that this user may write to with -data-dir";
    create_private_folder(folder).hint(advice)?;
    lock_folder(&HostDisk, folder, &folder.join(LOCK_FILE)).map(Some)
}

/// The incarnation of the data directory; made with it. In memory (`-dev`) each start is a new one.
pub(super) fn incarnation(settings: &Settings, disk: &dyn Disk) -> anyhow::Result<Incarnation> {
    let fresh = || Incarnation::from_random(random_bits());
    let Some(folder) = &settings.data_dir else { return Ok(fresh()) };
    create_private_folder_on(disk, folder)
        .hint("give a folder that this user may write to with -data-dir")?;
    read_or_make(disk, &folder.join(INCARNATION_FILE), fresh)
}

fn read_or_make(
    disk: &dyn Disk,
    path: &Path,
    fresh: impl Fn() -> Incarnation,
) -> anyhow::Result<Incarnation> {
    if let Some(bytes) = read_if_there_on(disk, path)? {
        let text = String::from_utf8_lossy(&bytes);
        return text
            .trim()
            .parse()
            .with_context(|| format!("{} is damaged", path.display()))
            .hint("without it this disk cannot be told from another: start with an empty data directory");
    }
    let incarnation = fresh();
    write_atomic_on(disk, path, format!("{incarnation}\n").as_bytes(), MODE_PRIVATE)
        .hint("give a folder that this user may write to with -data-dir")?;
    Ok(incarnation)
}

/// The limits of the API, when this process may have so many files and sockets open.
pub(super) fn http_settings(
    settings: &Settings,
    open_files_max: u64,
    reload: mpsc::Sender<ReloadRequest>,
) -> http::Settings {
    let usual = http::Limits::default();
    let possible = usize::try_from(open_files_max / 2).unwrap_or(usize::MAX);
    let limits = http::Limits {
        // The other half is for DNS, the other agents and files.
        connections: usual.connections.min(possible),
        connections_per_client: settings.http_connections_per_client.unwrap_or(usize::MAX),
        value_bytes: settings.kv_value_bytes,
        ..usual
    };
    http::Settings { limits, reload: Some(reload) }
}

/// Where the API is to listen.
pub(super) fn http_addresses(settings: &Settings) -> Vec<http::Address> {
    let mut addresses = Vec::new();
    for address in &settings.http {
        match (address, settings.ports.http) {
            (HttpAddress::Unix(path), _) => addresses.push(http::Address::Unix(path.clone())),
            (HttpAddress::Ip(ip), Some(port)) => {
                addresses.push(http::Address::Tcp(SocketAddr::new(*ip, port)));
            }
            (HttpAddress::Ip(_), None) => {}
        }
    }
    addresses
}

/// An address from a birth certificate: with its port, or bare.
pub(super) fn rpc_address(text: &str, port: u16) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let ip: IpAddr = text
        .trim_matches(['[', ']'])
        .parse()
        .with_context(|| format!("the birth certificate names `{text}`, which is no address"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The local state's settings, with the services and checks of configuration files.
pub(super) fn local_settings(settings: &Settings, node_id: &str) -> anyhow::Result<local::Settings> {
    let node = agent_node(
        node_id,
        &settings.node_name,
        settings.advertise,
        settings.datacenter.as_str(),
        &settings.node_meta,
    );
    let mut local = local::Settings::new(node, settings.data_dir.clone());
    local.check_update_interval = settings.check_update_interval;
    (local.services, local.checks) = definitions(settings)?;
    Ok(local)
}

/// The services and checks of configuration files.
pub(super) fn definitions(
    settings: &Settings,
) -> anyhow::Result<(Vec<ServiceRegistration>, Vec<local::ConfiguredCheck>)> {
    let services = settings.services.iter().map(Definition::service).collect::<anyhow::Result<_>>()?;
    let check = |definition: &Definition| {
        let check = definition.check()?;
        Ok(local::ConfiguredCheck { file: definition.file.clone(), check })
    };
    Ok((services, settings.checks.iter().map(check).collect::<anyhow::Result<_>>()?))
}

/// Who we are, for the API.
pub(super) fn identity(settings: &Settings, node_id: &str, sockets: &Sockets) -> Identity {
    let mut listeners = BTreeMap::from([("serf_lan".to_owned(), sockets.gossip)]);
    let first = |list: &[SocketAddr]| list.first().copied();
    let others = [("server", sockets.rpc), ("dns", first(&sockets.dns)), ("http", first(&sockets.http))];
    listeners.extend(others.into_iter().filter_map(|(name, address)| Some((name.to_owned(), address?))));
    Identity {
        node_id: node_id.to_owned(),
        node_name: settings.node_name.clone(),
        datacenter: settings.datacenter.to_string(),
        domain: settings.domain.clone(),
        advertise: settings.advertise,
        server: settings.server,
        node_meta: settings.node_meta.clone(),
        listeners,
        pretty: settings.dev,
        debug_config: debug_config(settings),
    }
}

/// `DebugConfig` of `/v1/agent/self`: Consul's names where it has them. Holds no secrets.
fn debug_config(settings: &Settings) -> BTreeMap<String, Value> {
    let data_dir = settings.data_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    [
        ("ACLsEnabled", json!(false)),
        ("AdvertiseAddrLAN", json!(settings.advertise.to_string())),
        ("BindAddr", json!(settings.bind.to_string())),
        ("Bootstrap", json!(settings.bootstrap)),
        ("BootstrapExpect", json!(settings.expect.unwrap_or(0))),
        ("DNSDomain", json!(format!("{}.", settings.domain))),
        ("DNSPort", json!(settings.ports.dns)),
        ("DNSRecursors", json!(settings.recursors)),
        ("DataDir", json!(data_dir)),
        ("Datacenter", json!(settings.datacenter.as_str())),
        ("DevMode", json!(settings.dev)),
        ("HTTPPort", json!(settings.ports.http)),
        ("NodeName", json!(settings.node_name)),
        ("RetryJoinLAN", json!(settings.retry_join)),
        ("SerfPortLAN", json!(settings.ports.serf_lan)),
        ("ServerMode", json!(settings.server)),
        ("ServerPort", json!(settings.ports.server)),
        (
            "TaggedAddresses",
            json!({ "lan": settings.advertise.to_string(), "wan": settings.advertise.to_string() }),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// How DNS is to be served.
pub(super) fn dns_settings(settings: &Settings) -> anyhow::Result<DnsSettings> {
    let zone = |text: &str| -> anyhow::Result<Name> {
        text.parse().with_context(|| format!("`{text}` is no DNS domain"))
    };
    let mut recursors = Vec::new();
    for text in &settings.recursors {
        let address = text.parse::<SocketAddr>().or_else(|_| rpc_address(text, RECURSOR_PORT));
        let address = address.with_context(|| format!("the recursor `{text}` is no address"))?;
        if settings.ports.dns == Some(address.port()) && settings.dns.contains(&address.ip()) {
            return Err(fault(
                format!("the recursor {address} is this agent's own DNS"),
                "give -recursor the DNS server that knows the other names, such as that of the network",
            ));
        }
        recursors.push(address);
    }
    let seconds = |number: u32| std::time::Duration::from_secs(number.into());
    Ok(DnsSettings {
        zone: zone(&settings.domain)?,
        alternative_zone: settings.alt_domain.as_deref().map(zone).transpose()?,
        policy: Policy {
            node_ttl: settings.dns_ttl.node,
            service_ttl: settings.dns_ttl.service.clone(),
            soa: SoaPolicy {
                refresh: seconds(settings.soa.refresh),
                retry: seconds(settings.soa.retry),
                expire: seconds(settings.soa.expire),
                min_ttl: seconds(settings.soa.min_ttl),
            },
            only_passing: settings.only_passing,
            enable_truncate: settings.enable_truncate,
            udp_answer_limit: settings.udp_answer_limit.into(),
            a_record_limit: settings.a_record_limit.into(),
            ..Policy::default()
        },
        recursors,
        strategy: if settings.recursor_random { Strategy::Random } else { Strategy::Sequential },
        recursor_timeout: settings.recursor_timeout,
    })
}

/// Whether this server leads, as it changes.
pub(super) fn leading(server: &Server, spawner: &Spawner) -> watch::Receiver<bool> {
    let mut leaders = server.leader_changes();
    let (sender, receiver) = watch::channel(false);
    let stop = spawner.stop_token();
    spawner.start("leading", async move {
        loop {
            let leads = leaders.borrow_and_update().as_ref().is_some_and(|leader| leader.here);
            sender.send_if_modified(|before| std::mem::replace(before, leads) != leads);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = leaders.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    });
    receiver
}

/// Tells systemd how far we are; without systemd this does nothing.
pub(super) fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd could not be told: {error}");
    }
}

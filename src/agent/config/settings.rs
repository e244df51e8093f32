//! The checked configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Definition;
use super::addresses::{Addresses, ip};
use super::fragment::Fragment;
use super::servers::{birth, is_named, replace_after, replace_mode};
use crate::agent::members;
use crate::hint::{WithHint as _, fault};
use crate::model::names::Datacenter;
use crate::model::provision::spec::DOMAIN_BYTES_MAX;
use crate::model::sync::servers::Mode;

/// Consul's default ports.
const PORT_DNS: u16 = 8600;
const PORT_HTTP: u16 = 8500;
const PORT_SERVER: u16 = 8300;
const PORT_SERF_LAN: u16 = 8301;
/// Consul's `http_max_conns_per_client`.
const HTTP_CONNECTIONS_PER_CLIENT: usize = 200;
/// Consul's `kv_max_value_size`.
const KV_VALUE_BYTES: usize = 512 * 1024;
/// Most that `kv_max_value_size` can be: each value is one entry of the log and one message between servers.
const KV_VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time between two tries to join, Consul's `retry_interval` is 30 s; ours is short because a machine that
/// boots a second before its peer must not wait half a minute.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Consul's `check_update_interval`: how long a check whose output alone changed may wait.
const CHECK_UPDATE_INTERVAL: Duration = Duration::from_mins(5);
/// Consul's `recursor_timeout`.
const RECURSOR_TIMEOUT: Duration = Duration::from_secs(2);
/// Consul's `udp_answer_limit`: answers in a UDP response without EDNS.
const UDP_ANSWER_LIMIT: u16 = 3;
/// Most pairs of node metadata (Consul's limit).
const NODE_META_PAIRS_MAX: usize = 64;

/// Ports; `None` is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// DNS, UDP and TCP.
    pub dns: Option<u16>,
    /// HTTP.
    pub http: Option<u16>,
    /// RPC between servers and agents.
    pub server: u16,
    /// Gossip, UDP and TCP.
    pub serf_lan: u16,
}

/// Where the HTTP API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAddress {
    /// On this address, at the HTTP port.
    Ip(IpAddr),
    /// On this unix socket.
    Unix(PathBuf),
}

/// Time to live of DNS answers for services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsTtl {
    /// For node names.
    pub node: Duration,
    /// By service name, `*` at the end matches any rest.
    pub service: BTreeMap<String, Duration>,
}

/// Numbers of the SOA record, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soa {
    /// Refresh.
    pub refresh: u32,
    /// Retry.
    pub retry: u32,
    /// Expire.
    pub expire: u32,
    /// Negative TTL.
    pub min_ttl: u32,
}

/// The checked configuration of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Name in the catalog.
    pub node_name: String,
    /// UUID given by hand; otherwise the one in the data directory.
    pub node_id: Option<String>,
    /// Metadata of the node.
    pub node_meta: BTreeMap<String, String>,
    /// Datacenter.
    pub datacenter: Datacenter,
    /// DNS zone, without dots at its ends.
    pub domain: String,
    /// Second DNS zone.
    pub alt_domain: Option<String>,
    /// Where state is kept; `None` keeps it in memory (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// Development mode.
    pub dev: bool,
    /// A server, not a client.
    pub server: bool,
    /// Create a cluster alone, at once.
    pub bootstrap: bool,
    /// Create a cluster when this many servers see each other.
    pub expect: Option<usize>,
    /// Address that gossip and RPC listen on.
    pub bind: IpAddr,
    /// Address that others reach us at.
    pub advertise: IpAddr,
    /// Why that one, where the machine chose it itself.
    pub advertise_reason: Option<String>,
    /// Listeners of the API.
    pub http: Vec<HttpAddress>,
    /// Addresses that DNS listens on.
    pub dns: Vec<IpAddr>,
    /// Ports.
    pub ports: Ports,
    /// Addresses of other agents.
    pub retry_join: Vec<String>,
    /// Time between two tries to join.
    pub retry_interval: Duration,
    /// DNS servers for all other zones.
    pub recursors: Vec<String>,
    /// Longest time to wait for one of them.
    pub recursor_timeout: Duration,
    /// Ask them in random order.
    pub recursor_random: bool,
    /// DNS answers hold passing instances only.
    pub only_passing: bool,
    /// Set the TC bit when something was cut.
    pub enable_truncate: bool,
    /// DNS times to live.
    pub dns_ttl: DnsTtl,
    /// Answers in a UDP response without EDNS.
    pub udp_answer_limit: u16,
    /// Most address records in any response, 0 for no limit.
    pub a_record_limit: u16,
    /// SOA numbers.
    pub soa: Soa,
    /// HTTP connections that one address may have (`limits.http_max_conns_per_client`); `None` is no limit.
    pub http_connections_per_client: Option<usize>,
    /// Bytes of a key's value (`limits.kv_max_value_size`).
    pub kv_value_bytes: usize,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// File that holds the process id.
    pub pid_file: Option<PathBuf>,
    /// Leave the cluster on SIGTERM; `None`: a client does, a server comes back (Consul's default).
    pub leave_on_terminate: Option<bool>,
    /// Leave the cluster on SIGINT; `None` as above.
    pub leave_on_interrupt: Option<bool>,
    /// What is done about servers that are missing.
    pub replace: Mode,
    /// How long a server must have been dead before it is replaced.
    pub replace_after: Duration,
    /// How long a check whose output alone changed may wait.
    pub check_update_interval: Duration,
    /// Services of the configuration.
    pub services: Vec<Definition>,
    /// Checks of the configuration.
    pub checks: Vec<Definition>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Checks a merged configuration. `hostname` is the node's name when none is given.
    ///
    /// # Errors
    /// Consul's texts, each with what to do.
    pub fn check(mut fragment: Fragment, hostname: &str) -> anyhow::Result<Self> {
        let dev = fragment.dev.unwrap_or(false);
        let mut warnings = std::mem::take(&mut fragment.warnings);
        let Addresses { bind, advertise, advertise_reason, http, dns } =
            Addresses::of(&fragment, dev, &mut warnings)?;
        let is_new =
            fragment.data_dir.as_ref().is_none_or(|data_dir| !data_dir.join(members::PEERS_FILE).exists());
        let named = (!fragment.server_at.is_empty())
            .then(|| {
                is_named(&fragment.server_at, fragment.server, advertise, hostname, is_new, &mut warnings)
            })
            .transpose()?;
        let server = named.or(fragment.server).unwrap_or(dev);
        // The same flags for all machines: they are for those that are servers.
        let expect = fragment.bootstrap_expect.filter(|_| named != Some(false));
        let (bootstrap, expect) = birth(fragment.bootstrap, expect, server, dev, &mut warnings)?;
        let data_dir = if dev { None } else { fragment.data_dir };
        if data_dir.as_ref().is_none_or(|dir| dir.as_os_str().is_empty()) && !dev {
            return Err(fault(
                "data_dir cannot be empty",
                "give a folder with -data-dir, or try things with -dev",
            ));
        }
        if fragment.node_meta.len() > NODE_META_PAIRS_MAX {
            bail!("node_meta cannot contain more than {NODE_META_PAIRS_MAX} key/value pairs");
        }
        let node_name = fragment.node_name.unwrap_or_else(|| hostname.to_owned());
        if node_name.trim().is_empty() {
            return Err(fault("node_name cannot be empty", "give a name with -node"));
        }
        let domain = zone(fragment.domain.as_deref().unwrap_or("consul"))?;
        let alt_domain =
            fragment.alt_domain.as_deref().filter(|text| !text.is_empty()).map(zone).transpose()?;
        let ports = Ports {
            dns: port("dns", fragment.port_dns, PORT_DNS)?,
            http: port("http", fragment.port_http, PORT_HTTP)?,
            server: port("server", fragment.port_server, PORT_SERVER)?
                .context("ports.server cannot be -1")?,
            serf_lan: port("serf_lan", fragment.port_serf_lan, PORT_SERF_LAN)?
                .context("ports.serf_lan cannot be -1")?,
        };
        Ok(Self {
            node_name,
            node_id: fragment.node_id,
            node_meta: fragment.node_meta,
            datacenter: fragment.datacenter.map(|text| text.parse()).transpose()?.unwrap_or_default(),
            domain,
            alt_domain,
            data_dir,
            dev,
            server,
            bootstrap,
            expect,
            bind,
            advertise,
            advertise_reason,
            http,
            dns,
            ports,
            retry_join: fragment.retry_join,
            retry_interval: fragment.retry_interval.unwrap_or(RETRY_INTERVAL),
            recursors: recursors(fragment.recursors)?,
            recursor_timeout: fragment.dns_recursor_timeout.unwrap_or(RECURSOR_TIMEOUT),
            recursor_random: recursor_random(fragment.dns_recursor_strategy.as_deref())?,
            only_passing: fragment.dns_only_passing.unwrap_or(false),
            enable_truncate: fragment.dns_enable_truncate.unwrap_or(false),
            dns_ttl: DnsTtl {
                node: fragment.dns_node_ttl.unwrap_or_default(),
                service: fragment.dns_service_ttl,
            },
            udp_answer_limit: small(
                "dns_config.udp_answer_limit",
                fragment.dns_udp_answer_limit,
                UDP_ANSWER_LIMIT,
            )?,
            a_record_limit: small("dns_config.a_record_limit", fragment.dns_a_record_limit, 0)?,
            soa: Soa {
                refresh: seconds("dns_config.soa.refresh", fragment.soa_refresh, 3600)?,
                retry: seconds("dns_config.soa.retry", fragment.soa_retry, 600)?,
                expire: seconds("dns_config.soa.expire", fragment.soa_expire, 86400)?,
                min_ttl: seconds("dns_config.soa.min_ttl", fragment.soa_min_ttl, 0)?,
            },
            http_connections_per_client: connections_per_client(fragment.limits_http_max_conns_per_client),
            kv_value_bytes: kv_value_bytes(fragment.limits_kv_max_value_size)?,
            log_level: log_level(fragment.log_level.as_deref(), dev)?,
            pid_file: fragment.pid_file,
            leave_on_terminate: fragment.leave_on_terminate.or(dev.then_some(true)),
            leave_on_interrupt: fragment.skip_leave_on_interrupt.map(|skip| !skip).or(dev.then_some(true)),
            replace: replace_mode(fragment.replace.as_deref())?,
            replace_after: replace_after(fragment.replace_after)?,
            check_update_interval: fragment.check_update_interval.unwrap_or(CHECK_UPDATE_INTERVAL),
            services: fragment.services,
            checks: fragment.checks,
            warnings,
        })
    }
}

fn port(name: &str, number: Option<i64>, default: u16) -> anyhow::Result<Option<u16>> {
    match number {
        None => Ok(Some(default)),
        Some(-1) => Ok(None),
        Some(number) => u16::try_from(number)
            .map(Some)
            .with_context(|| format!("ports.{name}: {number} is not a port"))
            .hint("ports are 1 to 65535; -1 switches a listener off"),
    }
}

fn small(key: &str, number: Option<i64>, default: u16) -> anyhow::Result<u16> {
    number.map_or(Ok(default), |number| {
        u16::try_from(number).with_context(|| format!("{key} cannot be {number}"))
    })
}

fn connections_per_client(number: Option<i64>) -> Option<usize> {
    // Zero and less switch the limit off, as in Consul.
    number.map_or(Some(HTTP_CONNECTIONS_PER_CLIENT), |number| {
        usize::try_from(number).ok().filter(|max| *max > 0)
    })
}

fn kv_value_bytes(number: Option<i64>) -> anyhow::Result<usize> {
    let Some(number) = number else { return Ok(KV_VALUE_BYTES) };
    let bytes = usize::try_from(number).ok().filter(|bytes| (1..=KV_VALUE_BYTES_MAX).contains(bytes));
    bytes.with_context(|| format!("limits.kv_max_value_size cannot be {number}")).hint(format!(
        "a number of bytes up to {KV_VALUE_BYTES_MAX} is expected; the default is {KV_VALUE_BYTES}"
    ))
}

fn seconds(key: &str, number: Option<i64>, default: u32) -> anyhow::Result<u32> {
    number.map_or(Ok(default), |number| {
        u32::try_from(number).with_context(|| format!("{key} cannot be {number}"))
    })
}

fn zone(text: &str) -> anyhow::Result<String> {
    let zone = text.trim_matches('.').to_ascii_lowercase();
    let fits = !zone.is_empty()
        && zone.len() <= DOMAIN_BYTES_MAX
        && zone.split('.').all(|label| crate::model::names::is_dns_label(&label.replace('_', "-")));
    if fits {
        Ok(zone)
    } else {
        Err(fault(format!("`{text}` is not a DNS domain"), "use a name such as `consul.`"))
    }
}

fn recursors(list: Vec<String>) -> anyhow::Result<Vec<String>> {
    for text in &list {
        let host = text
            .parse::<std::net::SocketAddr>()
            .map(|address| address.ip())
            .or_else(|_| ip("recursors", text))?;
        if host.is_unspecified() {
            bail!("DNS recursor address cannot be 0.0.0.0, :: or [::]");
        }
    }
    Ok(list)
}

fn recursor_random(text: Option<&str>) -> anyhow::Result<bool> {
    match text {
        None | Some("" | "sequential") => Ok(false),
        Some("random") => Ok(true),
        Some(other) => {
            bail!("dns_config.recursor_strategy must be one of [\"sequential\", \"random\"], not {other:?}")
        }
    }
}

fn log_level(text: Option<&str>, dev: bool) -> anyhow::Result<String> {
    let level = text.map_or_else(|| if dev { "debug" } else { "info" }.to_owned(), str::to_ascii_lowercase);
    match level.as_str() {
        "trace" | "debug" | "info" | "warn" | "error" => Ok(level),
        "err" => Ok("error".to_owned()),
        _ => Err(fault(
            format!("Invalid log level: {level}. Valid log levels are: [TRACE DEBUG INFO WARN ERROR]"),
            "for example `-log-level debug`",
        )),
    }
}

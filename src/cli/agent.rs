//! `corediscover agent`: the discovery agent, with Consul's flags.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgAction;

use super::{EXIT_FINE, Output, Usage, block_on, logging, signals};
use crate::agent::config::{Dialect, Fragment, Settings, Source, parse_file, read_paths};
use crate::agent::{Agent, Birth};
use crate::hint::advise_if_none;
use crate::model::duration;

/// What helps with any mistake in flags or files.
const CONFIGURATION_ADVICE: &str =
    "`corediscover agent --help` lists the flags; configuration files are JSON objects with Consul's keys";

/// Flags of `agent`; one dash or two.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Args {
    /// Address that other machines reach this one at, or where the machine finds it: `auto`, `private`, `public`,
    /// `interface:NAME` or a template such as `{{ GetPrivateIP }}`.
    #[arg(long)]
    advertise: Option<String>,
    /// Address that gossip and RPC listen on, or a template that gives one.
    #[arg(long)]
    bind: Option<String>,
    /// Addresses that HTTP and DNS listen on, separated by blanks; templates that give some are replaced.
    #[arg(long)]
    client: Option<String>,
    /// Create a cluster with this server alone, at once.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    bootstrap: Option<bool>,
    /// Create a cluster when this many servers see each other.
    #[arg(long, allow_hyphen_values = true)]
    bootstrap_expect: Option<i64>,
    /// Folder of `*.json` and `*.hcl` configuration files; may be repeated.
    #[arg(long, env = "COREDISCOVER_CONFIG_DIR")]
    config_dir: Vec<PathBuf>,
    /// Configuration file; may be repeated.
    #[arg(long)]
    config_file: Vec<PathBuf>,
    /// Dialect of configuration files that are named one by one, whatever they are called.
    #[arg(long, value_name = "hcl|json", value_enum, hide_possible_values = true)]
    config_format: Option<ConfigFormat>,
    /// A piece of configuration in HCL, over the files; may be repeated.
    #[arg(long, value_name = "HCL")]
    hcl: Vec<String>,
    /// Folder for state.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Datacenter.
    #[arg(long, alias = "dc")]
    datacenter: Option<String>,
    /// Development mode: one server, nothing on disk.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dev: Option<bool>,
    /// DNS port; -1 for none.
    #[arg(long, allow_hyphen_values = true)]
    dns_port: Option<i64>,
    /// DNS zone.
    #[arg(long)]
    domain: Option<String>,
    /// Second DNS zone.
    #[arg(long)]
    alt_domain: Option<String>,
    /// HTTP port; -1 for none.
    #[arg(long, allow_hyphen_values = true)]
    http_port: Option<i64>,
    /// Address of another agent; may be repeated; tried until it answers.
    #[arg(long)]
    join: Vec<String>,
    /// As -join.
    #[arg(long)]
    retry_join: Vec<String>,
    /// Time between two tries to join.
    #[arg(long)]
    retry_interval: Option<String>,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    #[arg(long)]
    log_level: Option<String>,
    /// Name of this node; the host's name by default.
    #[arg(long)]
    node: Option<String>,
    /// UUID of this node.
    #[arg(long)]
    node_id: Option<String>,
    /// Metadata of this node as key:value; may be repeated.
    #[arg(long)]
    node_meta: Vec<String>,
    /// File for the process id.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// DNS server for names of other zones; may be repeated.
    #[arg(long)]
    recursor: Vec<String>,
    /// Port of gossip.
    #[arg(long)]
    serf_lan_port: Option<i64>,
    /// Be a server.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    server: Option<bool>,
    /// Be a server if this machine has this address or name, and a client otherwise; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    server_at: Vec<String>,
    /// Port of RPC.
    #[arg(long)]
    server_port: Option<i64>,
    /// What is done about dead servers: `auto` (replace them), `propose` or `off`.
    #[arg(long)]
    replace: Option<String>,
    /// How long a server must have been dead before it is replaced.
    #[arg(long)]
    replace_after: Option<String>,
    /// Accepted; the user interface comes with a later version.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ui: Option<bool>,
    /// Accepted; has no effect.
    #[arg(long, hide = true)]
    ui_dir: Option<PathBuf>,
    /// Accepted; has no effect: an agent always joins again.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rejoin: Option<bool>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    end_with_parent: bool,
}

impl Args {
    fn fragment(self) -> anyhow::Result<Fragment> {
        let mut node_meta = std::collections::BTreeMap::new();
        for pair in self.node_meta {
            let (key, value) = pair
                .split_once(':')
                .ok_or_else(|| anyhow::anyhow!("-node-meta {pair}: key:value is expected"))?;
            node_meta.insert(key.to_owned(), value.to_owned());
        }
        let retry_interval = self
            .retry_interval
            .map(|text| {
                duration::parse_positive(&text).map_err(|error| anyhow::anyhow!("-retry-interval: {error}"))
            })
            .transpose()?;
        let replace_after = self
            .replace_after
            .map(|text| {
                duration::parse_positive(&text).map_err(|error| anyhow::anyhow!("-replace-after: {error}"))
            })
            .transpose()?;
        Ok(Fragment {
            replace: self.replace,
            replace_after,
            node_name: self.node,
            node_id: self.node_id,
            node_meta,
            datacenter: self.datacenter,
            domain: self.domain,
            alt_domain: self.alt_domain,
            data_dir: self.data_dir,
            server: self.server,
            server_at: self.server_at,
            dev: self.dev,
            bootstrap: self.bootstrap,
            bootstrap_expect: self.bootstrap_expect,
            bind_addr: self.bind,
            advertise_addr: self.advertise,
            client_addr: self.client,
            port_dns: self.dns_port,
            port_http: self.http_port,
            port_server: self.server_port,
            port_serf_lan: self.serf_lan_port,
            retry_join: self.join.into_iter().chain(self.retry_join).collect(),
            retry_interval,
            recursors: self.recursor,
            log_level: self.log_level,
            pid_file: self.pid_file,
            ui: self.ui,
            ..Fragment::default()
        })
    }

    /// Ends with the parent process, if that was asked.
    pub(super) fn follow_parent(&self) -> anyhow::Result<()> {
        if self.end_with_parent { crate::host::end_with_parent() } else { Ok(()) }
    }

    /// Files first, folders as given, flags over them, `decided` over all.
    pub(super) fn settings(self, decided: Fragment) -> anyhow::Result<Settings> {
        let paths: Vec<PathBuf> = self.config_file.iter().chain(&self.config_dir).cloned().collect();
        let read = || {
            let mut merged = read_paths(&paths, self.config_format.map(Dialect::from))?;
            for text in &self.hcl {
                merged = merged.merge(parse_file("-hcl", Dialect::Hcl, text)?);
            }
            let merged = merged.merge(self.fragment()?).merge(decided);
            Settings::check(merged, &crate::host::name()?)
        };
        read().map_err(|error| advise_if_none(error, CONFIGURATION_ADVICE))
    }
}

/// The value of `-config-format`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ConfigFormat {
    Hcl,
    Json,
}

impl From<ConfigFormat> for Dialect {
    fn from(format: ConfigFormat) -> Self {
        match format {
            ConfigFormat::Hcl => Self::Hcl,
            ConfigFormat::Json => Self::Json,
        }
    }
}

/// Runs the agent until it is told to stop.
pub(crate) fn run(args: Args, _output: &mut Output) -> anyhow::Result<u8> {
    args.follow_parent()?;
    let settings = args
        .clone()
        .settings(Fragment::default())
        .map_err(|error| error.context(Usage("the agent's configuration is not valid")))?;
    let level = logging::start(&settings.log_level)?;
    let read = move || args.clone().settings(Fragment::default());
    let source =
        Arc::new(Source::new(settings.clone(), read, move |settings| level.set(&settings.log_level)));
    block_on(async {
        let hangup = source.clone();
        let stop = signals::stop_request(move || hangup.ask())?;
        Agent::start(settings, Birth::ByGossip, source).await?.run_until(stop).await
    })?;
    Ok(EXIT_FINE)
}

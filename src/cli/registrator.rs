//! `corediscover registrator`: gliderlabs/registrator's command line, flag by flag.
//!
//! Options come before the URI, as in Go; times are whole seconds unless the flag says otherwise.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{EXIT_FINE, Output, Usage, signals};
use crate::client::{Address, Client, Token};
use crate::hint::WithHint as _;
use crate::model::registration::{Compat, naming::split_tags};
use crate::registrator::{self, Consul, Deregister, DockerEngine, RegistryUri, Settings};
use crate::tasks::Tasks;

/// How the command is called, for usage errors.
const FORM: &str =
    "corediscover registrator [options] <registry URI>, for example `-ip 10.0.0.1 consul://127.0.0.1:8500`";

/// Arguments of `registrator`.
#[derive(clap::Args)]
#[command(args_override_self = true)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag that the user gives or does not")]
pub(crate) struct Args {
    /// Address under which published ports are registered [default: the agent's own address]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ip: String,
    /// Register the containers' own addresses and ports, published or not
    #[arg(long, value_parser = go_bool, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_name = "true|false")]
    internal: bool,
    /// Only register containers that set `SERVICE_NAME`
    #[arg(long, value_parser = go_bool, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_name = "true|false")]
    explicit: bool,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    end_with_parent: bool,
    /// Take the address from this label of the container
    #[arg(long = "useIpFromLabel", value_name = "LABEL", default_value = "", hide_default_value = true)]
    use_ip_from_label: String,
    /// Tags for every service, separated by commas
    #[arg(long, value_name = "TAGS", default_value = "", hide_default_value = true)]
    tags: String,
    /// Lifetime of a service in seconds, for registries with lifetimes (the agent has none)
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    ttl: u64,
    /// How often the lifetime is renewed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    ttl_refresh: u64,
    /// Read all containers again this often, in seconds, even if Docker reports no change [default: 60]
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    resync: u64,
    /// When the services of an ended container go: `always`, or only `on-success`
    #[arg(long, value_name = "WHEN", default_value = "always")]
    deregister: String,
    /// Also remove services that gliderlabs/registrator has left behind
    #[arg(long, value_parser = go_bool, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_name = "true|false")]
    cleanup: bool,
    /// How often to try again when the registry cannot be reached at the start; -1 for ever
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    retry_attempts: i64,
    /// Pause between those attempts, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, allow_negative_numbers = true)]
    retry_interval: i64,
    /// First part of every service id [default: Docker's name of this machine]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    hostname: String,
    /// Follow gliderlabs/registrator where we differ: `tags-reversed`, `network-address` (comma-separated)
    #[arg(long, value_name = "WHAT", default_value = "", hide_default_value = true)]
    compat: String,
    /// Print the version
    #[arg(long)]
    version: bool,
    /// `consul://[host:port]`, `consul:` (this machine) or `consul-unix:///path/to/socket`
    #[arg(value_name = "registry URI", trailing_var_arg = true)]
    uri: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    if args.version {
        output.data(&format!("v{}\n", env!("CARGO_PKG_VERSION")))?;
        return Ok(EXIT_FINE);
    }
    if args.end_with_parent {
        crate::host::end_with_parent()?;
    }
    let uri = registry_uri(&args)?;
    let forced_address = args.ip.clone();
    let settings = settings(args)?;
    let client = client(&uri)?;
    log_to_stderr()?;
    tracing::info!("Starting registrator v{} ...", env!("CARGO_PKG_VERSION"));
    if !forced_address.is_empty() {
        tracing::info!("Forcing host IP to {forced_address}");
    }
    tracing::info!("Using consul adapter: {}", client.address());
    let registry = Consul::new(client);
    super::block_on(async move {
        let engine = DockerEngine::connect(std::env::var("DOCKER_HOST").ok().as_deref()).await?;
        let tasks = Tasks::default();
        let spawner = tasks.spawner();
        tasks.start("registrator", registrator::run(settings, Arc::new(engine), Arc::new(registry), spawner));
        let stop_request = signals::stop_request(signals::ignore_hangup)?;
        tasks.run_until(stop_request).await
    })?;
    Ok(EXIT_FINE)
}

fn registry_uri(args: &Args) -> anyhow::Result<RegistryUri> {
    let Some((uri, rest)) = args.uri.split_first() else {
        return Err(anyhow::Error::msg(Usage("Missing required argument for registry URI."))).hint(FORM);
    };
    if !rest.is_empty() {
        return Err(anyhow::Error::msg(Usage("Options should come before the registry URI argument.")))
            .with_context(|| format!("Extra unparsed arguments: {}", rest.join(" ")))
            .hint(FORM);
    }
    uri.parse::<RegistryUri>().hint("use consul://host:port")
}

/// Checks what the flags say together; the texts are the original's.
fn settings(args: Args) -> anyhow::Result<Settings> {
    anyhow::ensure!(
        (args.ttl == 0) == (args.ttl_refresh == 0),
        "-ttl and -ttl-refresh must be specified together or not at all"
    );
    anyhow::ensure!(args.ttl == 0 || args.ttl > args.ttl_refresh, "-ttl must be greater than -ttl-refresh");
    let deregister = match args.deregister.as_str() {
        "always" => Deregister::Always,
        "on-success" => Deregister::OnSuccess,
        _ => anyhow::bail!("-deregister must be \"always\" or \"on-success\""),
    };
    let retry_interval = u64::try_from(args.retry_interval)
        .ok()
        .filter(|milliseconds| *milliseconds > 0)
        .context("-retry-interval must be greater than 0")?;
    anyhow::ensure!(!args.tags.contains("{{"), "templates in -tags are not built; give plain tags");
    let is_unusable = args.ip.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
    if is_unusable {
        return Err(anyhow::anyhow!("-ip {}: no other machine can reach this address", args.ip))
            .hint("give the address of this machine that the others know");
    }
    let mut compat = Compat::default();
    for what in args.compat.split(',').filter(|what| !what.is_empty()) {
        match what {
            "tags-reversed" => compat.tags_reversed = true,
            "network-address" => compat.network_address = true,
            other => anyhow::bail!("-compat {other}: there are `tags-reversed` and `network-address`"),
        }
    }
    Ok(Settings {
        hostname: given(args.hostname),
        address: given(args.ip),
        internal: args.internal,
        explicit: args.explicit,
        address_label: given(args.use_ip_from_label),
        tags: split_tags(&args.tags),
        deregister,
        cleanup: args.cleanup,
        resync: (args.resync > 0).then(|| Duration::from_secs(args.resync)),
        // Every negative number means for ever, as -1 does.
        retry_attempts: (args.retry_attempts >= 0)
            .then(|| u32::try_from(args.retry_attempts).unwrap_or(u32::MAX)),
        retry_interval: Duration::from_millis(retry_interval),
        compat,
    })
}

/// An empty value is no value, as in Go: units write `-ip ${ADDRESS}`.
fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The agent that the URI names; without one, `CONSUL_HTTP_ADDR`, else this machine.
fn client(uri: &RegistryUri) -> anyhow::Result<Client> {
    let RegistryUri::Consul(address) = uri;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if go_bool(&variable("CONSUL_HTTP_SSL")).unwrap_or(false) {
        return Err(anyhow::anyhow!("CONSUL_HTTP_SSL is set, and TLS towards the agent is not built"))
            .hint("talk to the agent of this machine: consul://127.0.0.1:8500");
    }
    let address = if address.is_empty() { variable("CONSUL_HTTP_ADDR") } else { address.clone() };
    let address = if address.is_empty() { Address::default() } else { address.parse()? };
    Ok(Client::new(address, Token::new(variable("CONSUL_HTTP_TOKEN")))?)
}

/// A flag as Go's `strconv.ParseBool` reads it.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Log lines in the form of Go's log package, which people's tools already read: date, time, text.
struct GoLines;

impl<S, N> FormatEvent<S, N> for GoLines
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let now = jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S");
        write!(writer, "{now} ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

fn log_to_stderr() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env()
        .context("RUST_LOG is not understood")?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(GoLines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("something else logs in this process already")
}

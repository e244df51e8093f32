//! `corediscover cloud-config`: user-data for blank CoreOS machines, on stdout. Also the options that all provisioning
//! commands share, and how they become a [`Spec`].

use std::net::IpAddr;

use super::{EXIT_FINE, Output, Usage};
use crate::hint::WithHint as _;
use crate::model::names::Datacenter;
use crate::model::provision::binary::Binary;
use crate::model::provision::cloud_config::{cloud_config, needs_discovery};
use crate::model::provision::etcd::{Endpoint, Etcd, Url};
use crate::model::provision::spec::{AddressSource, DnsPort, Domain, NodeSource, Servers};
use crate::model::provision::{Spec, SpecError};

/// What every machine of the cluster has in common.
#[derive(clap::Args)]
pub(super) struct SpecArgs {
    /// How many machines become servers: the first that reach etcd.
    #[arg(long, value_name = "N", default_value = "3")]
    servers: Servers,
    /// An etcd that is there already; without it, the machines run etcd2 themselves.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    etcd: Vec<Endpoint>,
    /// How machines get the binary: `url=URL,sha512=DIGEST`, `image=NAME` or `path=/PATH`.
    #[arg(long, value_name = "HOW", default_value = "path=/opt/bin/corediscover")]
    binary: Binary,
    /// Name of the datacenter.
    #[arg(long, value_name = "NAME", default_value = "dc1")]
    datacenter: Datacenter,
    /// The domain that DNS serves.
    #[arg(long, value_name = "DOMAIN", default_value = "consul")]
    domain: Domain,
    /// Which address machines tell each other: `private` or `public` of /etc/environment, or `auto` (default route).
    #[arg(long, value_name = "SOURCE", default_value = "private")]
    advertise: AddressSource,
    /// What machines are called: `hostname`, or `machine-id` where all host names are alike.
    #[arg(long, value_name = "SOURCE", default_value = "hostname")]
    node: NodeSource,
    /// The agent's DNS port; 53 where systemd is older than 246, as on the last CoreOS.
    #[arg(long, value_name = "PORT", default_value = "8600")]
    dns_port: DnsPort,
    /// Where HTTP and DNS listen, for example 127.0.0.1,172.17.0.1 so that containers can ask. Without it: loopback.
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    client: Vec<IpAddr>,
}

impl SpecArgs {
    /// Puts the options together; `fleet` asks for fleet where etcd is not the machines' own.
    pub(super) fn into_spec(self, discovery: Option<Url>, fleet: bool) -> Result<Spec, SpecError> {
        let etcd = Etcd::new(self.etcd, discovery)?;
        Ok(Spec {
            servers: self.servers,
            fleet: fleet || matches!(etcd, Etcd::Local { .. }),
            etcd,
            binary: self.binary,
            datacenter: self.datacenter,
            domain: self.domain,
            address: self.advertise,
            node: self.node,
            dns_port: self.dns_port,
            client: self.client,
        })
    }
}

/// Arguments of `cloud-config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Where the machines' own etcd2 members find each other, for example from `curl https://discovery.etcd.io/new?size=3`.
    #[arg(long, value_name = "URL", conflicts_with = "etcd")]
    discovery: Option<Url>,
    /// Configure and start fleet although --etcd is given (without --etcd it always is).
    #[arg(long)]
    fleet: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let spec = args
        .spec
        .into_spec(args.discovery, args.fleet)
        .hint("see `corediscover cloud-config --help`")
        .map_err(|error| error.context(Usage("these options do not fit together")))?;
    output.data(&cloud_config(&spec)?)?;
    if needs_discovery(&spec) {
        output.note(
            "note: etcd2 needs a discovery URL: replace <token> in the file, or give --discovery URL; \
             --etcd URL uses an etcd that is there already",
        );
    }
    Ok(EXIT_FINE)
}

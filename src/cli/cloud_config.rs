//! `corediscover cloud-config`: user-data for blank CoreOS machines, on stdout.

use super::spec_args::{Request, SpecArgs};
use super::{EXIT_FINE, Output};
use crate::model::provision::cloud_config::{cloud_config, needs_discovery};
use crate::model::provision::draft::Draft;
use crate::model::provision::etcd::Url;
use crate::model::provision::format::Format;

/// Arguments of `cloud-config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Where the machines' own etcd2 members find each other, for example from `curl https://discovery.etcd.io/new?size=3`.
    #[arg(long, value_name = "URL", conflicts_with_all = ["etcd", "join"])]
    discovery: Option<Url>,
    /// Configure and start fleet although --etcd is given (without --etcd it always is).
    #[arg(long)]
    fleet: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let more = Draft { discovery: args.discovery, fleet: args.fleet.then_some(true), ..Draft::default() };
    if let Request::Make(made) = args.spec.request(Format::CloudConfig, more, output)? {
        output.data(&made.text(cloud_config(&made.spec)?))?;
        if needs_discovery(&made.spec) {
            output.note(
                "note: etcd2 needs a discovery URL: replace <token> in the file, or give --discovery URL; \
                 --etcd URL uses an etcd that is there already",
            );
        }
    }
    Ok(EXIT_FINE)
}

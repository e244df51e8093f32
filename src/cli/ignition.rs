//! `corediscover ignition`: user-data for blank machines with Flatcar or Fedora CoreOS, on stdout.

use super::spec_args::{Request, SpecArgs};
use super::{EXIT_FINE, Output};
use crate::model::provision::draft::Draft;
use crate::model::provision::format::Format;
use crate::model::provision::ignition::{Version, ignition};

/// Arguments of `ignition`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Version of Ignition's specification: 3.3.0 (Flatcar since 3185, Fedora CoreOS since 34) or 3.4.0.
    #[arg(long = "spec", value_name = "VERSION", default_value = "3.3.0")]
    version: Version,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    if let Request::Make(made) = args.spec.request(Format::Ignition, Draft::default(), output)? {
        made.without_comments()?;
        output.data(&ignition(&made.spec, args.version)?)?;
        made.note_etcd(output);
    }
    Ok(EXIT_FINE)
}

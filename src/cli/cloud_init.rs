//! `corediscover cloud-init`: user-data for blank machines with Debian or Ubuntu, on stdout.

use super::Output;
use super::spec_args::{SpecArgs, print};
use crate::model::provision::cloud_init::cloud_init;
use crate::model::provision::format::Format;

/// Arguments of `cloud-init`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    print(args.spec, Format::CloudInit, output, cloud_init)
}

//! `corediscover compose`: agent and registrator as containers, on stdout.

use super::Output;
use super::spec_args::{SpecArgs, print};
use crate::model::provision::compose::compose;
use crate::model::provision::format::Format;

/// Arguments of `compose`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    print(args.spec, Format::Compose, output, compose)
}

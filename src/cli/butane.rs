//! `corediscover butane`: the same as `ignition`, as people write it, on stdout.

use super::Output;
use super::spec_args::{SpecArgs, print};
use crate::model::provision::butane::{Variant, butane};
use crate::model::provision::format::Format;

/// Arguments of `butane`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// The system and the version of its language: flatcar-1.0, flatcar-1.1 or fcos-1.5.
    #[arg(long, value_name = "VARIANT", default_value = "flatcar-1.0")]
    variant: Variant,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    print(args.spec, Format::Butane, output, |spec| butane(spec, args.variant))
}

//! `corediscover vagrant`: a Vagrantfile and the units that it brings to its machines, written into a folder.

use std::path::PathBuf;

use super::spec_args::{Request, SpecArgs, write_files};
use super::{EXIT_FINE, Output, Usage};
use crate::hint::WithHint as _;
use crate::model::provision::draft::Draft;
use crate::model::provision::format::Format;
use crate::model::provision::vagrant::{Machines, vagrant};

/// Arguments of `vagrant`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to write into; it is made if need be.
    #[arg(long, value_name = "DIR", required_unless_present = "print_spec")]
    out: Option<PathBuf>,
    /// How many machines there are, from 172.28.128.3 on.
    #[arg(long, value_name = "N", default_value = "3")]
    machines: Machines,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let request = args.spec.request(Format::Vagrant, Draft::default(), output)?;
    if let (Request::Make(made), Some(out)) = (request, args.out) {
        args.machines
            .check(&made.spec)
            .hint("see `corediscover vagrant --help`")
            .map_err(|error| error.context(Usage("these options do not fit together")))?;
        write_files(&out, &made, vagrant(&made.spec, args.machines)?, output)?;
    }
    Ok(EXIT_FINE)
}

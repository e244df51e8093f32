//! `corediscover units`: unit files for systemd or fleet, written into a folder.

use std::path::PathBuf;

use super::spec_args::{Request, SpecArgs, write_files};
use super::{EXIT_FINE, Output};
use crate::model::provision::draft::Draft;
use crate::model::provision::format::{Format, OutputFile};
use crate::model::provision::units::{Manager, unit_files};

/// Arguments of `units`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Global units for fleet: a copy on every machine.
    #[arg(long, conflicts_with = "systemd")]
    fleet: bool,
    /// Units for systemd alone; so it is when nothing is said.
    #[arg(long)]
    systemd: bool,
    /// The folder to write into; it is made if need be.
    #[arg(long, value_name = "DIR", required_unless_present = "print_spec")]
    out: Option<PathBuf>,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = if args.fleet || args.systemd { Some(args.fleet) } else { None };
    let request = args.spec.request(Format::Units, Draft { fleet, ..Draft::default() }, output)?;
    if let (Request::Make(made), Some(out)) = (request, args.out) {
        let manager = if made.spec.fleet { Manager::Fleet } else { Manager::Systemd };
        let files = unit_files(&made.spec, manager)?;
        let files = files.into_iter().map(|file| OutputFile { path: file.name.to_owned(), text: file.text });
        write_files(&out, &made, files.collect(), output)?;
    }
    Ok(EXIT_FINE)
}

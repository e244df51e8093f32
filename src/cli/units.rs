//! `corediscover units`: unit files for systemd or fleet, written into a folder.

use std::path::PathBuf;

use super::spec_args::{Request, SpecArgs, write_files};
use super::{EXIT_FINE, Output, Usage};
use crate::hint::fault;
use crate::model::provision::draft::Draft;
use crate::model::provision::format::{Format, OutputFile};
use crate::model::provision::units::{Manager, UnitFile, unit_files};

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
    /// Write this unit alone, as in `--only corediscover-registrator.service`; may be repeated. Without it: all.
    #[arg(long, value_name = "UNIT")]
    only: Vec<String>,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = if args.fleet || args.systemd { Some(args.fleet) } else { None };
    let request = args.spec.request(Format::Units, Draft { fleet, ..Draft::default() }, output)?;
    if let (Request::Make(made), Some(out)) = (request, args.out) {
        let manager = if made.spec.fleet { Manager::Fleet } else { Manager::Systemd };
        let files = chosen(unit_files(&made.spec, manager)?, &args.only)?;
        let files = files.into_iter().map(|file| OutputFile { path: file.name.to_owned(), text: file.text });
        write_files(&out, &made, files.collect(), output)?;
    }
    Ok(EXIT_FINE)
}

/// The files of these names; all, if none is named.
fn chosen(files: Vec<UnitFile>, only: &[String]) -> anyhow::Result<Vec<UnitFile>> {
    if let Some(unknown) = only.iter().find(|name| !files.iter().any(|file| file.name == name.as_str())) {
        let names: Vec<&str> = files.iter().map(|file| file.name).collect();
        let error = fault(
            format!("with these settings there is no unit `{unknown}`, and nothing was written"),
            format!("the units are {}", names.join(", ")),
        );
        return Err(error.context(Usage("--only is not understood")));
    }
    let is_chosen = |file: &UnitFile| only.is_empty() || only.iter().any(|name| file.name == name.as_str());
    Ok(files.into_iter().filter(is_chosen).collect())
}

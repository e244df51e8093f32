//! `corediscover units`: unit files for systemd or fleet, written into a folder.

use std::path::PathBuf;

use anyhow::Context as _;

use super::cloud_config::SpecArgs;
use super::{EXIT_FINE, Output, Usage};
use crate::hint::WithHint as _;
use crate::host::files;
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
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let manager = if args.fleet { Manager::Fleet } else { Manager::Systemd };
    let spec = args
        .spec
        .into_spec(None, args.fleet)
        .hint("see `corediscover units --help`")
        .map_err(|error| error.context(Usage("these options do not fit together")))?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create the folder {}", args.out.display()))
        .hint("choose another folder with --out")?;
    for file in unit_files(&spec, manager)? {
        let path = args.out.join(file.name);
        files::write_atomic(&path, file.text.as_bytes(), files::MODE_PUBLIC)?;
        output.data(&format!("{}\n", path.display()))?;
    }
    Ok(EXIT_FINE)
}

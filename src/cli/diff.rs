//! `corediscover diff`: what two spec files do differently, as `diff -u` prints it.

use std::path::{Path, PathBuf};

use super::spec_args::read_spec_file;
use super::{EXIT_FAILED, EXIT_FINE, Output, Usage};
use crate::hint::WithHint as _;
use crate::model::provision::diff::unified;
use crate::model::provision::format::Format;
use crate::model::provision::{Spec, spec_file};

/// Arguments of `diff`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The spec file before.
    old: PathBuf,
    /// The spec file after.
    new: PathBuf,
    /// Compare the output of a command (`cloud-config`, `cloud-init`, `ignition`, `butane`, `units`, `compose`, `sysext`,
    /// `vagrant`) and not the settings alone.
    #[arg(long, value_name = "COMMAND", value_parser = parse_format)]
    format: Option<Format>,
    /// Exit with 1 when there is a difference.
    #[arg(long)]
    exit_code: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let format = args.format.unwrap_or(Format::CloudConfig);
    let old = read(&args.old, format)?;
    let new = read(&args.new, format)?;
    let mut text = String::new();
    if args.format.is_some() {
        let (old_files, new_files) = (format.files(&old)?, format.files(&new)?);
        // A file that only one of them has is compared with nothing.
        let mut paths: Vec<&String> = old_files.iter().chain(&new_files).map(|file| &file.path).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let find = |files: &[crate::model::provision::format::OutputFile]| {
                files
                    .iter()
                    .find(|file| file.path == *path)
                    .map_or_else(String::new, |file| file.text.clone())
            };
            text.push_str(&unified(
                &format!("{}: {path}", args.old.display()),
                &find(&old_files),
                &format!("{}: {path}", args.new.display()),
                &find(&new_files),
            ));
        }
    } else {
        let names = (args.old.display().to_string(), args.new.display().to_string());
        text =
            unified(&names.0, &spec_file::print(&old, format)?, &names.1, &spec_file::print(&new, format)?);
    }
    output.data(&text)?;
    Ok(if args.exit_code && !text.is_empty() { EXIT_FAILED } else { EXIT_FINE })
}

fn read(path: &Path, format: Format) -> anyhow::Result<Spec> {
    read_spec_file(path)?
        .into_spec(format)
        .hint(format_args!("see `corediscover {} --help`", format.name()))
        .map_err(|error| error.context(Usage("these settings do not fit together")))
}

fn parse_format(text: &str) -> Result<Format, String> {
    let names = || Format::ALL.map(Format::name).join(", ");
    Format::ALL
        .into_iter()
        .find(|format| format.name() == text)
        .ok_or_else(|| format!("use one of {}", names()))
}

//! `corediscover sysext`: the tree of a system extension, with this binary in it, written into a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::spec_args::{Request, SpecArgs, write_files};
use super::{EXIT_FINE, Output};
use crate::hint::WithHint as _;
use crate::model::provision::draft::Draft;
use crate::model::provision::format::Format;
use crate::model::provision::sysext::{BINARY_FILE, Host, NAME, sysext};

/// Mode of programs.
const MODE_PROGRAM: u32 = 0o755;

/// Arguments of `sysext`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to write into; it is made if need be.
    #[arg(long, value_name = "DIR", required_unless_present = "print_spec")]
    out: Option<PathBuf>,
    /// The system that it is for: `flatcar`, `ID=SYSEXT_LEVEL` of another one's os-release, or `_any` (systemd 252).
    #[arg(long, value_name = "SYSTEM", default_value = "flatcar")]
    system: Host,
    /// Leave the binary out; without this, the tree holds the one that writes it.
    #[arg(long)]
    no_binary: bool,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let request = args.spec.request(Format::Sysext, Draft::default(), output)?;
    if let (Request::Make(made), Some(out)) = (request, args.out) {
        write_files(&out, &made, sysext(&made.spec, &args.system)?, output)?;
        if !args.no_binary {
            output.data(&format!("{}\n", copy_binary(&out)?.display()))?;
        }
        output.note(&format!(
            "note: `mksquashfs {} {NAME}.raw -all-root -noappend` makes an image for /etc/extensions of it; the folder \
             itself, as /etc/extensions/{NAME}, is one too",
            out.display()
        ));
        made.note_etcd(output);
    }
    Ok(EXIT_FINE)
}

/// Copies the running program into the tree, under its name only when it is whole.
fn copy_binary(out: &Path) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find the file of this program")?;
    let target = out.join(BINARY_FILE);
    let unfinished = target.with_extension("new");
    let copy = || -> std::io::Result<()> {
        fs::create_dir_all(target.parent().unwrap_or(out))?;
        fs::copy(&program, &unfinished)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(MODE_PROGRAM))?;
        fs::rename(&unfinished, &target)
    };
    copy()
        .with_context(|| format!("cannot copy {} to {}", program.display(), target.display()))
        .hint("choose another folder with --out, or leave the binary out with --no-binary")?;
    Ok(target)
}

//! `corediscover lint`: what machines would read differently than it was meant, with the place and the remedy.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::{EXIT_FAILED, EXIT_FINE, Output};
use crate::hint::{WithHint as _, fault};
use crate::model::provision::lint::{Finding, Language, Severity, lint, original};

/// Largest file that is read, in bytes: no provider takes user-data of more than 64 KiB.
const FILE_BYTES_MAX: usize = 256 << 10;

/// What a file is to be taken for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum As {
    CloudConfig,
    CloudInit,
    Ignition,
    Butane,
    Unit,
    DropIn,
}

impl From<As> for Language {
    fn from(language: As) -> Self {
        match language {
            As::CloudConfig => Self::CloudConfig,
            As::CloudInit => Self::CloudInit,
            As::Ignition => Self::Ignition,
            As::Butane => Self::Butane,
            As::Unit => Self::Unit,
            As::DropIn => Self::DropIn,
        }
    }
}

/// Arguments of `lint`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// User-data or a unit; `-` is standard input.
    file: PathBuf,
    /// What the file is; without it, its name and text tell.
    #[arg(long = "as", value_name = "LANGUAGE", value_enum)]
    language: Option<As>,
    /// Fail on any finding, as `coreos-cloudinit -validate` does, not only on errors.
    #[arg(long)]
    strict: bool,
    /// Print only what `coreos-cloudinit -validate` finds, in its words and order; fail on any finding.
    #[arg(long, conflicts_with_all = ["language", "json"])]
    compat: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let name = args.file.display().to_string();
    let text = read(&args.file)?;
    if args.compat {
        let findings = original(&text);
        let lines: String = findings.iter().map(|finding| format!("{}\n", finding.original())).collect();
        output.data(&lines)?;
        return Ok(if findings.is_empty() { EXIT_FINE } else { EXIT_FAILED });
    }
    let file_name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let language = args.language.map_or_else(|| Language::guess(&file_name, &text), Language::from);
    let mut findings = lint(language, &text);
    findings.retain(|finding| !finding.rule.is_for_us());
    if args.json {
        output.data(&format!("{:#}\n", as_json(&name, &findings)))?;
    } else {
        for finding in &findings {
            let Finding { line, column, severity, reason, fix, .. } = finding;
            output
                .data(&format!("{name}:{line}:{column}: {}: {reason}\n    fix: {fix}\n", severity.word()))?;
        }
        if findings.is_empty() {
            output.note(&format!("{name}: nothing to change, read as {}", language.name()));
        }
    }
    let fails = |finding: &Finding| args.strict || finding.severity == Severity::Error;
    Ok(if findings.iter().any(fails) { EXIT_FAILED } else { EXIT_FINE })
}

fn as_json(name: &str, findings: &[Finding]) -> serde_json::Value {
    let entries = findings.iter().map(|finding| {
        json!({
            "file": name,
            "line": finding.line,
            "column": finding.column,
            "severity": finding.severity.word(),
            "rule": finding.rule.name(),
            "reason": finding.reason,
            "fix": finding.fix,
        })
    });
    entries.collect()
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    result
        .with_context(|| format!("cannot read {}", path.display()))
        .hint("give a file, or `-` for standard input")?;
    if bytes.len() > FILE_BYTES_MAX {
        let message = format!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
        return Err(fault(
            message,
            "no provider takes user-data of that size: fetch the large part from elsewhere",
        ));
    }
    String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{} is not text in UTF-8", path.display()))
        .hint("packed user-data must be unpacked first: `gunzip -c FILE | corediscover lint -`")
}

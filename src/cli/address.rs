//! `corediscover address`: which address this machine would tell the others, and why.

use serde_json::json;

use super::{EXIT_FAILED, EXIT_FINE, Output, Usage};
use crate::hint::{self, fault};
use crate::host::address;
use crate::model::address::{AddressSource, Considered, Verdict, choose, interface_name};

/// Arguments of `address`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to look: `auto`, `private`, `public`, `interface:NAME` or a template such as `{{ GetPrivateIP }}`, as
    /// `--advertise` takes them.
    #[arg(value_name = "SOURCE", default_value = "auto", conflicts_with = "interface")]
    source: String,
    /// The first usable address of this interface; the same as `interface:NAME`.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Print everything that was looked at as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command: the address alone on stdout, for scripts; the reason and all candidates on stderr.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let source = match &args.interface {
        Some(name) => interface_name(name).map(AddressSource::Interface),
        None => args.source.parse(),
    };
    let source = source.map_err(|error| {
        fault(error, "see `corediscover address --help`").context(Usage("there is nothing to look for"))
    })?;
    let chosen = choose(&source, &address::facts()?);
    if args.json {
        let (address, reason, warning, advice, considered) = match &chosen {
            Ok(choice) => {
                (Some(choice.address), &choice.reason, choice.warning.as_ref(), None, &choice.considered)
            }
            Err(refusal) => (None, &refusal.reason, None, Some(&refusal.advice), &refusal.considered),
        };
        let document = json!({
            "source": source.to_string(),
            "address": address,
            "reason": reason,
            "warning": warning,
            "advice": advice,
            "candidates": considered.iter().map(candidate).collect::<Vec<_>>(),
        });
        output.data(&format!("{document:#}\n"))?;
        return Ok(if chosen.is_ok() { EXIT_FINE } else { EXIT_FAILED });
    }
    match chosen {
        Ok(choice) => {
            output.data(&format!("{}\n", choice.address))?;
            output.note(&format!("chosen: {}", choice.reason));
            choice.warning.iter().for_each(|warning| output.note(&format!("warning: {warning}")));
            for other in choice.considered.iter().filter(|candidate| candidate.verdict != Verdict::Chosen) {
                output.note(&format!("not chosen: {other}"));
            }
            Ok(EXIT_FINE)
        }
        Err(refusal) => {
            output.note(&hint::report(&address::refused(refusal)));
            Ok(EXIT_FAILED)
        }
    }
}

fn candidate(considered: &Considered) -> serde_json::Value {
    let (verdict, objection) = match &considered.verdict {
        Verdict::Chosen => ("chosen", None),
        Verdict::PassedOver => ("usable", None),
        Verdict::Refused(objection) => ("refused", Some(objection.to_string())),
    };
    json!({
        "address": considered.address,
        "origin": considered.origin,
        "verdict": verdict,
        "objection": objection,
    })
}

//! The short form of `make fuzz`: every target on its seeds, on inputs that were found once, and on damaged copies.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::mutate::{Chance, mutated};
use super::{TARGETS, Target, seeds};
use crate::simulation::say;

/// Damaged copies of each target, half of them the same in every run.
const INPUTS: usize = 10_000;

fn folder(kind: &str, target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target)
}

fn files(folder: &PathBuf) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs a target; a panic ends the test with the input.
fn survive(name: &str, target: Target, input: &[u8], origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        panic!("target {name} does not survive this input ({origin}); keep it in fuzz/found/{name}: {hex}");
    }
}

#[test]
fn no_target_panics_on_seeds_on_what_was_found_once_or_on_damaged_copies() {
    let fresh: u64 = rand::random();
    say(&format!("the fresh half of the inputs begins with {fresh}"));
    std::thread::scope(|scope| {
        for (name, target) in TARGETS {
            // Like the threads that read what comes from outside.
            let run = move || {
                let mut seeds = Vec::new();
                for kind in ["seeds", "found"] {
                    for (file, bytes) in files(&folder(kind, name)) {
                        survive(name, *target, &bytes, &file);
                        seeds.push(bytes);
                    }
                }
                for start in [1, fresh] {
                    let mut chance = Chance(start);
                    for number in 0..INPUTS / 2 {
                        let input = mutated(&seeds, &mut chance);
                        survive(name, *target, &input, &format!("number {number} of {start}"));
                    }
                }
            };
            std::thread::Builder::new().name((*name).to_owned()).spawn_scoped(scope, run).unwrap();
        }
    });
}

#[test]
fn the_seeds_are_what_this_version_writes() {
    for (name, _) in TARGETS {
        let folder = folder("seeds", name);
        let wanted = seeds::of(name);
        assert!(!wanted.is_empty(), "{name} has no seeds");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            drop(fs::remove_dir_all(&folder));
            fs::create_dir_all(&folder).unwrap();
            for (file, bytes) in &wanted {
                crate::host::files::write_atomic(&folder.join(file), bytes, 0o644).unwrap();
            }
        }
        let mut wanted = wanted;
        wanted.sort();
        assert!(files(&folder) == wanted, "the seeds of {name} are old: run `make regenerate`");
    }
}

#[test]
fn every_target_has_a_program() {
    let programs: BTreeSet<String> = files(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets"))
        .into_iter()
        .map(|(file, _)| file.trim_end_matches(".rs").to_owned())
        .collect();
    assert_eq!(programs, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
}

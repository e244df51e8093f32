//! What the documents promise is there: files that they link to, commands and flags that they show.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::{commands, help};
use crate::support::binary;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents for people, as path and text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in [root().to_owned(), root().join("docs")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The lines of shell blocks, continued lines joined, without comments.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut continued = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && matches!(language.trim(), "sh" | "shell" | "bash" | "console");
            continue;
        }
        if !inside {
            continue;
        }
        let line = line.split(" #").next().unwrap().trim().trim_start_matches("$ ");
        if let Some(start) = line.strip_suffix('\\') {
            continued.push_str(start);
            continue;
        }
        continued.push_str(line);
        lines.push(std::mem::take(&mut continued));
    }
    lines
}

/// Text in single backticks.
fn inline_code(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Every call of the program in a text: the words behind its name.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in shell_lines(text).into_iter().chain(inline_code(text)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for (position, word) in words.iter().enumerate() {
            let before = words[..position].join(" ");
            let is_image = before.contains("docker run") || before.contains("docker image");
            let name = word.trim_start_matches(['(', '$']);
            if (position == 0 || is_image || word.starts_with("$("))
                && matches!(name, "corediscover" | "corediscover:latest")
            {
                let rest = words[position + 1..].iter();
                let rest = rest.take_while(|word| !matches!(**word, ">" | "|" | "&&" | ";" | "&"));
                found.push(rest.map(|word| word.trim_end_matches(')').to_owned()).collect());
            }
        }
    }
    found
}

fn is_placeholder(word: &str) -> bool {
    word.chars().all(|character| character.is_ascii_uppercase() || "[]…|".contains(character))
}

#[test]
fn every_command_and_flag_in_the_documents_exists() {
    let known: BTreeSet<Vec<String>> = commands().into_iter().collect();
    let mut seen = 0;
    for (path, text) in documents() {
        for call in calls(&text) {
            let Some(first) = call.first().filter(|word| !is_placeholder(word)) else { continue };
            if first.starts_with('-') {
                continue;
            }
            let mut command = vec![first.clone()];
            assert!(known.contains(&command), "{}: `corediscover {}`", path.display(), call.join(" "));
            if let Some(part) = call.get(1) {
                let with_part = vec![first.clone(), part.clone()];
                if known.contains(&with_part) {
                    command = with_part;
                }
            }
            let help = help(&command.iter().map(String::as_str).collect::<Vec<_>>());
            // Behind its first argument, cmd:run takes docker's flags.
            let ours = if first == "cmd:run" { 2 } else { call.len() };
            for word in call.iter().take(ours).take_while(|word| *word != "--") {
                if word.starts_with('-') && word.len() > 2 {
                    let name = word.trim_start_matches('-').split('=').next().unwrap();
                    assert!(
                        help.contains(&format!("--{name}")),
                        "{}: {command:?} has no flag {word}",
                        path.display()
                    );
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} calls were found in the documents");
}

#[test]
fn commands_in_the_readme_that_only_print_or_write_files_run() {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    symlink(binary(), programs.join("corediscover")).unwrap();
    let system = std::env::var("PATH").unwrap();
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let pure = ["corediscover cloud-config", "corediscover units", "corediscover version"];
    let mut runs = 0;
    for line in shell_lines(&text).iter().filter(|line| pure.iter().any(|start| line.starts_with(start))) {
        let output = Command::new("sh")
            .args(["-ec", line])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", format!("{}:{system}", programs.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        runs += 1;
    }
    assert!(runs > 0, "the README shows how to make user-data");
}

#[test]
fn the_readme_lists_every_command_and_no_other() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("| command"));
    let rows: BTreeSet<String> = table
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('`').nth(1).map(str::to_owned))
        .collect();
    let there: BTreeSet<String> =
        commands().into_iter().filter(|command| command.len() == 1).flatten().collect();
    assert_eq!(rows, there);
}

#[test]
fn links_between_documents_lead_to_files() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        let folder = path.parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let files = links.filter(|link| !link.contains("://") && !link.starts_with(['#', '<']));
        let named = inline_code(&text);
        // Files in backticks are named from the root.
        let named = named.iter().filter(|word| {
            let is_document = Path::new(word).extension().is_some_and(|extension| extension == "md");
            is_document && !word.contains([' ', '*', '<', '{'])
        });
        for link in files {
            let file = link.split('#').next().unwrap();
            if !folder.join(file).exists() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
        for name in named {
            if !root().join(name).exists() && !folder.join(name).exists() {
                broken.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let page = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let mut sources = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let is_test = |word: &String| {
        word.matches('_').count() >= 3
            && word
                .chars()
                .all(|character| character.is_ascii_lowercase() || "_0123456789".contains(character))
    };
    let named: Vec<String> = inline_code(&page).into_iter().filter(is_test).collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<&String> = named.iter().filter(|name| !is_run(&sources, name)).collect();
    assert!(missing.is_empty(), "docs/guarantees.md names tests that are not there: {missing:?}");
    // A promise stands in bold; what shows it stands in the same point.
    let mut points: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("- **") {
            points.push(line.to_owned());
            inside = true;
        } else if inside && line.starts_with("  ") {
            points.iter_mut().last().unwrap().push_str(line);
        } else {
            inside = false;
        }
    }
    assert!(points.len() > 20, "{points:?}");
    let unshown: Vec<&String> =
        points.iter().filter(|point| !inline_code(point).iter().any(is_test)).collect();
    assert!(unshown.is_empty(), "no test is named for these promises: {unshown:#?}");
}

/// Whether a function of this name has an attribute that makes it a test.
fn is_run(sources: &str, name: &str) -> bool {
    let Some((before, _)) = sources.split_once(&format!("fn {name}(")) else { return false };
    let attributes = before.rsplit('\n').skip(1).take_while(|line| line.trim_start().starts_with("#["));
    attributes.into_iter().any(|line| line.contains("test"))
}

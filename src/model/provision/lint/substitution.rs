//! coreos-cloudinit replaces addresses in the text, before it is YAML: everywhere, comments and scripts included.

use super::{Finding, Rule};

/// What is replaced.
const VARIABLES: [&str; 4] = ["private_ipv4", "public_ipv4", "private_ipv6", "public_ipv6"];

/// Finds variables that are not replaced, or not as meant.
pub(super) fn check(text: &str, findings: &mut Vec<Finding>) {
    for (number, line) in (1..).zip(text.lines()) {
        for variable in VARIABLES {
            check_line(number, line, variable, findings);
        }
    }
}

fn check_line(number: usize, line: &str, variable: &str, findings: &mut Vec<Finding>) {
    let mut find = |at: usize, rule, reason: String, fix: String| {
        findings.push(Finding::new(number, line[..at].chars().count() + 1, rule, reason, fix));
    };
    let braced = format!("${{{variable}}}");
    if let Some(at) = line.find(&braced) {
        find(
            at,
            Rule::BracedVariable,
            format!("`{braced}` is left as it is"),
            format!("write `${variable}`"),
        );
    }
    let name = format!("${variable}");
    for (start, _) in line.match_indices(&name) {
        let rest = &line[start + name.len()..];
        if line[..start].ends_with('\\') {
            continue;
        }
        if VARIABLES.iter().any(|other| rest.starts_with(&format!("${other}"))) {
            find(
                start,
                Rule::AdjacentVariables,
                format!("the variable right after `{name}` is not replaced"),
                "put something between them".to_owned(),
            );
        } else if rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_') {
            find(
                start,
                Rule::VariableRunsOn,
                format!("`{name}` is replaced inside a longer word"),
                format!("end it before the next letter, or write `\\{name}` where it is to stay"),
            );
        }
    }
}

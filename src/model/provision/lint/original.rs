//! What `coreos-cloudinit -validate` finds in a text, in its words and order, and nothing else.

use super::{Finding, Rule, in_original_order};

/// What its parser says about a URL without quotes in a flow list.
const UNEXPECTED_COLON: &str = "found unexpected ':'";
/// What its scanner says about a tab.
const NO_TOKEN: &str = "found character that cannot start any token";

/// Its findings. Of YAML that it cannot read the line and the kind are its own; the words of the reason may differ.
pub fn original(text: &str) -> Vec<Finding> {
    if is_script(text) || is_ignition(text) {
        return Vec::new();
    }
    let all = in_original_order(text);
    // Without its header a file is nothing to it, so it is not read either.
    if let Some(header) = all.iter().find(|finding| finding.rule == Rule::Header) {
        return vec![header.clone()];
    }
    let is_unreadable =
        |finding: &&Finding| matches!(finding.rule, Rule::NotYaml | Rule::FlowList | Rule::Tab);
    if let Some(first) =
        all.iter().filter(is_unreadable).min_by_key(|finding| (finding.line, finding.rule != Rule::Tab))
    {
        let reason = match first.rule {
            Rule::FlowList => UNEXPECTED_COLON,
            Rule::Tab => NO_TOKEN,
            _ => first.reason.as_str(),
        };
        let fault = Finding { reason: reason.to_owned(), ..first.clone() };
        // It goes on with what it has read: nothing.
        let nothing = Finding::new(
            0,
            1,
            Rule::WrongType,
            "incorrect type for \"\" (want struct)",
            "make the file readable as YAML",
        );
        return vec![fault, nothing];
    }
    all.into_iter().filter(|finding| finding.rule.is_original()).collect()
}

/// Whether it runs the text as it is.
fn is_script(text: &str) -> bool {
    text.starts_with("#!")
}

/// Whether it leaves the text to Ignition.
fn is_ignition(text: &str) -> bool {
    let Ok(config) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    config.get("ignitionVersion").is_some_and(serde_json::Value::is_number)
        || config.pointer("/ignition/version").is_some_and(serde_json::Value::is_string)
}

#[cfg(test)]
mod tests {
    use super::original;
    use crate::model::provision::lint::Finding;

    fn lines(text: &str) -> Vec<String> {
        original(text).iter().map(Finding::original).collect()
    }

    #[test]
    fn yaml_that_cannot_be_read_is_one_error_and_an_empty_file() {
        let nothing = "line 0: warning: incorrect type for \"\" (want struct)";
        for (body, start) in [
            ("hostname: [a\n", "line "),
            ("hostname: \"a\n", "line "),
            ("coreos:\n\tetcd2:\n", "line 3: error: found character that cannot start any token"),
            ("ssh_authorized_keys: [http://a, http://b]\nruncmd: a\n", "line 2: error: found unexpected ':'"),
        ] {
            let found = lines(&format!("#cloud-config\n{body}"));
            assert_eq!(found.len(), 2, "{body}: {found:?}");
            assert!(found[0].starts_with(start) && found[0].contains(": error: "), "{body}: {found:?}");
            assert_eq!(found[1], nothing, "{body}");
        }
        assert_eq!(lines("#cloud-config\nssh_authorized_keys: [\"http://a\"]\n"), [""; 0]);
    }

    #[test]
    fn what_is_not_for_it_is_left_alone_and_what_has_no_header_is_not_read() {
        for fine in [
            "#!/bin/sh\nhostname: [a\n",
            "{\"ignition\": {\"version\": \"2.0.0\"}}\n",
            "{\"ignitionVersion\": 1}",
        ] {
            assert_eq!(lines(fine), [""; 0], "{fine}");
        }
        let header = "line 1: error: must be \"#cloud-config\" or begin with \"#!\"";
        for wrong in ["\n#cloud-config\n", "# cloud-config\nruncmd: a\n", "{\"a\": 1}", "{"] {
            assert_eq!(lines(wrong), [header], "{wrong}");
        }
    }
}

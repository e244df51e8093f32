//! The rules for cloud-config, as coreos-cloudinit reads it: first as text (substitution), then as YAML.

use super::{Finding, Rule, is_temporary, opens_docker, unit};

/// Keys of the whole file.
const TOP_KEYS: [&str; 6] =
    ["coreos", "hostname", "manage_etc_hosts", "ssh_authorized_keys", "users", "write_files"];
/// Keys of `coreos`.
const COREOS_KEYS: [&str; 8] = ["etcd", "etcd2", "fleet", "flannel", "locksmith", "oem", "units", "update"];
/// Keys of an entry in `coreos.units`.
const UNIT_KEYS: [&str; 7] = ["name", "enable", "mask", "runtime", "content", "command", "drop_ins"];
/// Keys of an entry in `write_files`.
const FILE_KEYS: [&str; 5] = ["path", "content", "owner", "permissions", "encoding"];
/// What `command` of a unit may say.
const COMMANDS: [&str; 7] =
    ["start", "stop", "restart", "reload", "try-restart", "reload-or-restart", "reload-or-try-restart"];
/// Keys that want `true` or `false`, without quotes.
const BOOLEAN_KEYS: [&str; 14] = [
    "enable",
    "mask",
    "runtime",
    "client_cert_auth",
    "debug",
    "enable_pprof",
    "force_new_cluster",
    "peer_client_cert_auth",
    "strict_reconfig_check",
    "disable_engine",
    "verify_units",
    "no_create_home",
    "no_user_group",
    "no_log_init",
];
/// Keys that want a number, without quotes.
const NUMBER_KEYS: [&str; 14] = [
    "election_timeout",
    "heartbeat_interval",
    "max_snapshots",
    "max_wals",
    "proxy_dial_timeout",
    "proxy_failure_wait",
    "proxy_read_timeout",
    "proxy_refresh_interval",
    "proxy_write_timeout",
    "snapshot_count",
    "engine_reconcile_interval",
    "etcd_request_timeout",
    "token_limit",
    "verbosity",
];
/// What coreos-cloudinit replaces.
const VARIABLES: [&str; 4] = ["private_ipv4", "public_ipv4", "private_ipv6", "public_ipv6"];

/// Checks a cloud-config, and the units in it. An empty list: nothing to change.
pub fn cloud_config(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if text.lines().next().is_none_or(|line| line.trim_end() != "#cloud-config") {
        findings.push(Finding::new(1, Rule::Header, "the first line must be exactly `#cloud-config`"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        check_variables(number, line, &mut findings);
    }
    Scanner { findings: &mut findings, path: Vec::new() }.scan(text);
    if let Err(error) = serde_saphyr::from_str::<serde_json::Value>(text) {
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        // An error at the end of the text is reported in the line after it.
        let line = line.clamp(1, text.lines().count().max(1));
        // The further lines draw the place.
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        findings.push(Finding::new(line, Rule::NotYaml, format!("this is not YAML: {reason}")));
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Substitution is done on the text, before it is YAML: everywhere, comments and scripts included.
fn check_variables(number: usize, line: &str, findings: &mut Vec<Finding>) {
    for variable in VARIABLES {
        if line.contains(&format!("${{{variable}}}")) {
            findings.push(Finding::new(
                number,
                Rule::BracedVariable,
                format!("`${{{variable}}}` is left as it is: write `${variable}`"),
            ));
        }
        let name = format!("${variable}");
        for (start, _) in line.match_indices(&name) {
            let rest = &line[start + name.len()..];
            if line[..start].ends_with('\\') {
                continue;
            }
            if VARIABLES.iter().any(|other| rest.starts_with(&format!("${other}"))) {
                findings.push(Finding::new(
                    number,
                    Rule::AdjacentVariables,
                    format!("the variable right after `{name}` is not replaced: put something between them"),
                ));
            } else if rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_') {
                findings.push(Finding::new(
                    number,
                    Rule::VariableRunsOn,
                    format!("`{name}` is replaced inside a longer word: end it before the next letter"),
                ));
            }
        }
    }
}

/// Walks over the lines of block-style YAML and knows where it is.
struct Scanner<'a> {
    findings: &'a mut Vec<Finding>,
    /// Column and name of each key around the current line.
    path: Vec<(usize, String)>,
}

impl Scanner<'_> {
    fn scan(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let mut position = 0;
        while let Some(&line) = lines.get(position) {
            let number = position + 1;
            position += 1;
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            if line[..indent].contains('\t') {
                self.find(number, Rule::Tab, "YAML allows no tab in the indentation: use blanks");
            }
            let (column, entry) = skip_dashes(indent, line.trim_start());
            let Some((key, value)) = split_key(entry) else {
                while self.path.last().is_some_and(|(outer, _)| *outer >= column) {
                    self.path.pop();
                }
                self.check_scalar(number, "", entry);
                continue;
            };
            while self.path.last().is_some_and(|(outer, _)| *outer >= column) {
                self.path.pop();
            }
            self.path.push((column, key.replace('-', "_")));
            if value.starts_with(['|', '>']) {
                let end = block_end(&lines, position, indent);
                self.check_block(position, &lines[position..end]);
                position = end;
            } else {
                let key = key.replace('-', "_");
                self.check_key(number, &key, value);
                self.check_scalar(number, &key, value);
            }
        }
    }

    fn find(&mut self, line: usize, rule: Rule, reason: impl Into<String>) {
        self.findings.push(Finding::new(line, rule, reason));
    }

    /// The names of the keys around, outermost first.
    fn place(&self) -> Vec<&str> {
        self.path.iter().map(|(_, key)| key.as_str()).collect()
    }

    fn check_block(&mut self, start: usize, lines: &[&str]) {
        let width = lines
            .iter()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.len() - line.trim_start().len())
            .min()
            .unwrap_or(0);
        let dedented: Vec<&str> = lines.iter().map(|line| line.get(width..).unwrap_or("")).collect();
        let text = dedented.join("\n");
        if matches!(
            self.place()[..],
            ["coreos", "units", "content"] | ["coreos", "units", "drop_ins", "content"]
        ) {
            self.findings.extend(unit(&text).into_iter().map(|finding| {
                let line = finding.line + start;
                Finding { line, ..finding }
            }));
        } else {
            for (number, line) in (start + 1..).zip(lines) {
                if opens_docker(line) {
                    self.find(number, Rule::DockerOnTcp, "whoever reaches port 2375 owns the machine");
                }
            }
        }
    }

    fn check_key(&mut self, number: usize, key: &str, value: &str) {
        let unquoted = value.trim_matches(['"', '\'']);
        let place = self.place();
        let known: Option<&[&str]> = match place[..place.len() - 1] {
            [] => Some(&TOP_KEYS),
            ["coreos"] => Some(&COREOS_KEYS),
            ["coreos", "units"] => Some(&UNIT_KEYS),
            ["coreos", "units", "drop_ins"] => Some(&["name", "content"]),
            ["write_files"] => Some(&FILE_KEYS),
            _ => None,
        };
        let is_unit_command = place[..] == ["coreos", "units", "command"];
        let is_file_path = place[..] == ["write_files", "path"];
        let is_mode = place[..] == ["write_files", "permissions"];
        if known.is_some_and(|known| !known.contains(&key)) {
            let advice =
                if key == "write_files" { ": write_files stands beside coreos, not in it" } else { "" };
            self.find(number, Rule::Schema, format!("coreos-cloudinit does not know `{key}` here{advice}"));
        }
        if is_unit_command && !COMMANDS.contains(&unquoted) {
            self.find(
                number,
                Rule::Schema,
                format!("`{unquoted}` is no command: use {}", COMMANDS.join(", ")),
            );
        }
        if is_mode && !is_octal_mode(unquoted) {
            self.find(number, Rule::Schema, format!("`{unquoted}` is no mode: three or four octal digits"));
        }
        if is_file_path && (is_temporary(unquoted) || unquoted.starts_with("/usr/")) {
            self.find(
                number,
                Rule::FilePath,
                "/tmp is emptied at boot and /usr is read-only: use /opt/bin, /etc or /var/lib",
            );
        }
    }

    fn check_scalar(&mut self, number: usize, key: &str, value: &str) {
        if opens_docker(value) {
            self.find(number, Rule::DockerOnTcp, "whoever reaches port 2375 owns the machine");
        }
        let is_quoted = value.starts_with(['"', '\'']);
        let is_boolean = matches!(value, "true" | "false");
        let is_number = value.parse::<f64>().is_ok() && !(value.len() > 1 && value.starts_with('0'));
        if BOOLEAN_KEYS.contains(&key) || NUMBER_KEYS.contains(&key) {
            let wanted = if BOOLEAN_KEYS.contains(&key) { is_boolean } else { is_number };
            if !wanted {
                self.find(number, Rule::WrongType, format!("`{key}` wants a bare number, true or false"));
            }
        } else if value.starts_with(['[', '{']) {
            if value.contains("://") {
                self.find(
                    number,
                    Rule::FlowList,
                    "coreos-cloudinit cannot read URLs in a flow list: one line each, `- \"URL\"`",
                );
            } else if !matches!(value, "[]" | "{}") {
                self.find(number, Rule::Unquoted, "write one line for each entry, in quotes");
            }
        } else if !value.is_empty() && !is_quoted {
            self.find(
                number,
                Rule::Unquoted,
                format!("put `{value}` in quotes: YAML may read it as something else"),
            );
        }
    }
}

fn is_octal_mode(text: &str) -> bool {
    let digits = if text.len() == 5 { text.strip_prefix('0').unwrap_or("") } else { text };
    (3..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
}

/// Column and text of what follows the dashes of list entries.
fn skip_dashes(mut column: usize, mut text: &str) -> (usize, &str) {
    while let Some(rest) = text.strip_prefix("- ") {
        let trimmed = rest.trim_start();
        column += text.len() - trimmed.len();
        text = trimmed;
    }
    (column, text.trim_end())
}

/// Key and value of `key: value`; `None` for a bare entry of a list.
fn split_key(entry: &str) -> Option<(&str, &str)> {
    if entry.starts_with(['"', '\'', '[', '{']) {
        return None;
    }
    let (key, value) = entry.split_once(": ").or_else(|| entry.strip_suffix(':').map(|key| (key, "")))?;
    let value = value.trim();
    let is_comment = value.starts_with('#');
    Some((key.trim(), if is_comment { "" } else { value }))
}

/// The first line after a block that starts at `position` and belongs to an entry indented by `indent`.
fn block_end(lines: &[&str], position: usize, indent: usize) -> usize {
    let is_inside = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
    position + lines[position..].iter().take_while(|line| is_inside(line)).count()
}

#[cfg(test)]
mod tests {
    use super::cloud_config;
    use crate::model::provision::lint::Rule;

    /// A file with `body` has exactly one finding, of `rule`, in line `line` of the body.
    #[track_caller]
    fn check(rule: Rule, line: usize, body: &str) {
        let text = format!("#cloud-config\n{body}");
        let found: Vec<_> =
            cloud_config(&text).into_iter().map(|finding| (finding.line - 1, finding.rule)).collect();
        assert_eq!(found, [(line, rule)], "{text}");
    }

    #[track_caller]
    fn clean(body: &str) {
        assert_eq!(cloud_config(&format!("#cloud-config\n{body}")), [], "{body}");
    }

    #[test]
    fn a_missing_header_is_found() {
        let found = cloud_config("# cloud-config\nhostname: \"a\"\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].rule, Rule::Header);
    }

    #[test]
    fn scalars_without_quotes_are_found() {
        check(Rule::Unquoted, 3, "write_files:\n  - path: \"/etc/a\"\n    permissions: 0744\n");
        check(Rule::Unquoted, 3, "coreos:\n  update:\n    reboot_strategy: off\n");
        check(Rule::Unquoted, 2, "ssh_authorized_keys:\n  - ssh-rsa AAAA\n");
        check(Rule::WrongType, 4, "coreos:\n  units:\n    - name: \"a.service\"\n      enable: \"true\"\n");
        check(Rule::WrongType, 3, "coreos:\n  etcd2:\n    snapshot_count: \"3\"\n");
        clean("coreos:\n  etcd2:\n    snapshot-count: 10000\n    debug: false\n");
    }

    #[test]
    fn text_that_coreos_cloudinits_yaml_cannot_read_is_found() {
        check(Rule::FlowList, 3, "coreos:\n  etcd2:\n    peers: [\"http://a\", \"http://b\"]\n");
        let found = cloud_config("#cloud-config\ncoreos:\n\tetcd2:\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::Tab && finding.line == 3), "{found:?}");
        let found = cloud_config("#cloud-config\nhostname: \"a\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::NotYaml), "{found:?}");
        let found = cloud_config("#cloud-config\nhostname: \"a\"\nhostname: \"b\"\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::NotYaml), "a key given twice: {found:?}");
    }

    #[test]
    fn variables_that_would_not_be_replaced_are_found() {
        check(Rule::BracedVariable, 1, "hostname: \"${private_ipv4}\"\n");
        check(Rule::AdjacentVariables, 1, "hostname: \"$private_ipv4$public_ipv4\"\n");
        check(Rule::VariableRunsOn, 1, "hostname: \"$private_ipv4x\"\n");
        check(
            Rule::BracedVariable,
            4,
            "write_files:\n  - path: \"/etc/a\"\n    content: |\n      A=${public_ipv4}\n",
        );
        clean("hostname: \"\\\\$private_ipv4x\"\n");
        clean(
            "coreos:\n  etcd2:\n    listen_peer_urls: \"http://$private_ipv4:2380,http://$private_ipv4:7001\"\n",
        );
    }

    #[test]
    fn keys_and_values_that_coreos_cloudinit_refuses_are_found() {
        check(Rule::Schema, 1, "runcmd: \"a\"\n");
        check(Rule::Schema, 2, "coreos:\n  etcd3:\n    name: \"a\"\n");
        check(Rule::Schema, 4, "coreos:\n  units:\n    - name: \"a.service\"\n      command: \"begin\"\n");
        check(Rule::Schema, 3, "write_files:\n  - path: \"/etc/a\"\n    permissions: \"rwx\"\n");
        check(Rule::Schema, 2, "coreos:\n  write_files:\n    - path: \"/etc/a\"\n");
    }

    #[test]
    fn files_in_places_that_do_not_last_are_found() {
        check(
            Rule::FilePath,
            2,
            "write_files:\n  - path: \"/tmp/start_consul.sh\"\n    permissions: \"0744\"\n",
        );
        check(Rule::FilePath, 2, "write_files:\n  - path: \"/usr/bin/a\"\n");
    }

    #[test]
    fn units_and_scripts_inside_are_checked_too() {
        let units = "coreos:\n  units:\n    - name: \"a.service\"\n      content: |\n";
        check(Rule::TemporaryScript, 6, &format!("{units}        [Service]\n        ExecStart=/tmp/a\n"));
        check(
            Rule::DockerOnTcp,
            8,
            "coreos:\n  units:\n    - name: \"a.service\"\n      drop_ins:\n        - name: \"1.conf\"\n          content: |\n            [Service]\n            ExecStart=/a -H 0.0.0.0:2375\n",
        );
        check(
            Rule::DockerOnTcp,
            4,
            "write_files:\n  - path: \"/opt/bin/a\"\n    content: |\n      docker -d -H tcp://0.0.0.0:2375\n",
        );
    }
}

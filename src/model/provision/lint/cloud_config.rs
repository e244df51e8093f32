//! The rules for cloud-config, as coreos-cloudinit reads it: first as text (substitution), then as YAML.
//!
//! Findings that coreos-cloudinit has too come in its words and its order; ours come after them.

use base64::Engine as _;

use super::schema::{self, Keys, Reading, Want};
use super::yaml::{Kind, Node, Style, parse};
use super::{Finding, Rule, is_temporary, substitution, unit_name, units_in};

/// What `command` of a unit may say.
const COMMANDS: &[&str] =
    &["start", "stop", "restart", "reload", "try-restart", "reload-or-restart", "reload-or-try-restart"];
const ENCODINGS: &[&str] = &["base64", "b64", "gz", "gzip", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64"];
const UNITS: &[(&str, Want)] = &[
    ("name", Want::Text),
    ("enable", Want::Bool),
    ("mask", Want::Bool),
    ("runtime", Want::Bool),
    ("content", Want::Text),
    ("command", Want::Word(COMMANDS)),
    ("drop_ins", Want::Maps(&[("name", Want::Text), ("content", Want::Text)])),
];
const UPDATE: &[(&str, Want)] = &[
    ("reboot_strategy", Want::Word(&["best-effort", "etcd-lock", "reboot", "off", "false"])),
    ("group", Want::Text),
    ("server", Want::Text),
];
const OEM: &[(&str, Want)] = &[
    ("id", Want::Text),
    ("name", Want::Text),
    ("version_id", Want::Text),
    ("home_url", Want::Text),
    ("bug_report_url", Want::Text),
];
const ETCD: Keys = Keys {
    text: &[
        "addr",
        "bind_addr",
        "ca_file",
        "cert_file",
        "cors",
        "data_dir",
        "discovery",
        "graphite_host",
        "key_file",
        "name",
        "peer_addr",
        "peer_bind_addr",
        "peer_ca_file",
        "peer_cert_file",
        "peer_key_file",
        "peers",
        "peers_file",
    ],
    bool: &["force", "snapshot", "verbose", "very_verbose"],
    int: &[
        "cluster_active_size",
        "cpu_profile_file",
        "max_result_buffer",
        "max_retry_attempts",
        "peer_election_timeout",
        "peer_heartbeat_interval",
        "snapshot_count",
    ],
    float: &["cluster_remove_delay", "cluster_sync_interval", "http_read_timeout", "http_write_timeout"],
    words: &[],
};
const ETCD2: Keys = Keys {
    text: &[
        "advertise_client_urls",
        "ca_file",
        "cert_file",
        "cors",
        "data_dir",
        "discovery",
        "discovery_fallback",
        "discovery_proxy",
        "discovery_srv",
        "initial_advertise_peer_urls",
        "initial_cluster",
        "initial_cluster_state",
        "initial_cluster_token",
        "key_file",
        "listen_client_urls",
        "listen_peer_urls",
        "log_package_levels",
        "name",
        "peer_ca_file",
        "peer_cert_file",
        "peer_key_file",
        "peer_trusted_ca_file",
        "trusted_ca_file",
        "wal_dir",
    ],
    bool: &[
        "client_cert_auth",
        "debug",
        "enable_pprof",
        "force_new_cluster",
        "peer_client_cert_auth",
        "strict_reconfig_check",
    ],
    int: &[
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
    ],
    float: &[],
    words: &[("proxy", &["on", "off", "readonly"])],
};
const FLEET: Keys = Keys {
    text: &[
        "agent_ttl",
        "authorized_keys_file",
        "etcd_cafile",
        "etcd_certfile",
        "etcd_key_prefix",
        "etcd_keyfile",
        "etcd_password",
        "etcd_servers",
        "etcd_username",
        "metadata",
        "public_ip",
    ],
    bool: &["disable_engine", "verify_units"],
    int: &["token_limit", "verbosity"],
    float: &["engine_reconcile_interval", "etcd_request_timeout"],
    words: &[],
};
const FLANNEL: Keys = Keys {
    text: &[
        "etcd_cafile",
        "etcd_certfile",
        "etcd_endpoints",
        "etcd_keyfile",
        "etcd_password",
        "etcd_prefix",
        "etcd_username",
        "interface",
        "ip_masq",
        "public_ip",
        "subnet_file",
    ],
    bool: &[],
    int: &[],
    float: &[],
    words: &[],
};
const LOCKSMITH: Keys = Keys {
    text: &[
        "endpoint",
        "etcd_cafile",
        "etcd_certfile",
        "etcd_keyfile",
        "etcd_password",
        "etcd_username",
        "group",
        "window_length",
        "window_start",
    ],
    bool: &[],
    int: &[],
    float: &[],
    words: &[],
};
const COREOS: &[(&str, Want)] = &[
    ("etcd", Want::Keys(&ETCD)),
    ("etcd2", Want::Keys(&ETCD2)),
    ("fleet", Want::Keys(&FLEET)),
    ("flannel", Want::Keys(&FLANNEL)),
    ("locksmith", Want::Keys(&LOCKSMITH)),
    ("oem", Want::Map(OEM)),
    ("units", Want::Maps(UNITS)),
    ("update", Want::Map(UPDATE)),
];
const USERS: &[(&str, Want)] = &[
    ("name", Want::Text),
    ("passwd", Want::Text),
    ("ssh_authorized_keys", Want::Texts),
    ("coreos_ssh_import_github", Want::Text),
    ("coreos_ssh_import_github_users", Want::Texts),
    ("coreos_ssh_import_url", Want::Text),
    ("gecos", Want::Text),
    ("homedir", Want::Text),
    ("no_create_home", Want::Bool),
    ("primary_group", Want::Text),
    ("groups", Want::Texts),
    ("no_user_group", Want::Bool),
    ("system", Want::Bool),
    ("no_log_init", Want::Bool),
    ("shell", Want::Text),
];
const FILES: &[(&str, Want)] = &[
    ("path", Want::Text),
    ("content", Want::Text),
    ("owner", Want::Text),
    ("permissions", Want::Mode),
    ("encoding", Want::Word(ENCODINGS)),
];
const TOP: Want = Want::Map(&[
    ("coreos", Want::Map(COREOS)),
    ("hostname", Want::Text),
    ("manage_etc_hosts", Want::Text),
    ("ssh_authorized_keys", Want::Texts),
    ("users", Want::Maps(USERS)),
    ("write_files", Want::Maps(FILES)),
]);

/// Checks a cloud-config, and the units in it. An empty list: nothing to change.
pub fn cloud_config(text: &str) -> Vec<Finding> {
    let mut findings = in_original_order(text);
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

/// The same, with what coreos-cloudinit says first, in its order.
pub(super) fn in_original_order(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if text.lines().next().is_none_or(|line| line.trim_end() != "#cloud-config") {
        findings.push(Finding::new(
            1,
            1,
            Rule::Header,
            "must be \"#cloud-config\" or begin with \"#!\"",
            "write exactly `#cloud-config` in the first line, with nothing before or behind it",
        ));
    }
    match parse(text) {
        Ok(Some(root)) => check(&root, text, &mut findings),
        Ok(None) => {}
        Err(fault) => findings.push(Finding::not_yaml(text, &fault)),
    }
    substitution::check(text, &mut findings);
    check_indentation(text, &mut findings);
    findings
}

fn check(root: &Node, text: &str, findings: &mut Vec<Finding>) {
    check_discovery(root, findings);
    check_encoding(root, findings);
    let (mut types, values) = schema::check(root, TOP, Reading::Lenient);
    check_deprecated(root, &mut types);
    types.sort_by_key(|finding| finding.line);
    findings.extend(types);
    findings.extend(values);
    check_read_only(root, findings);
    check_misplaced(root, findings);

    let units = units_in(root, &["coreos", "units"], "content");
    for (node, _) in &units {
        findings.extend(super::embedded_unit(text, node));
    }
    findings.extend(super::ports::check(text, &units));
    if let Some(list) = root.get("coreos").and_then(|coreos| coreos.get("units")) {
        for name in list.items().iter().filter_map(|unit| unit.get("name")) {
            unit_name::check(name, findings);
        }
        for unit in list.items().iter().filter(|unit| unit.get("name").is_none()) {
            findings.push(Finding::at(
                unit,
                Rule::UnitName,
                "a unit without a name",
                "begin it with `- name: \"….service\"`",
            ));
        }
    }
    check_hosts(root, findings);
    check_temporary(root, findings);
    let is_unit = |node: &Node| units.iter().any(|(unit, _)| std::ptr::eq(*unit, node));
    root.visit(&mut |node| {
        check_spelling(node, findings);
        if !is_unit(node) {
            super::check_docker(text, node, findings);
        }
    });
}

fn files(root: &Node) -> impl Iterator<Item = &Node> {
    root.get("write_files").map(Node::items).unwrap_or_default().iter()
}

fn check_discovery(root: &Node, findings: &mut Vec<Finding>) {
    let url = root.get("coreos").and_then(|coreos| coreos.get("etcd")).and_then(|etcd| etcd.get("discovery"));
    let is_url = |text: &str| text.is_empty() || text.starts_with("http://") || text.starts_with("https://");
    if let Some(url) = url.filter(|url| !url.text().is_some_and(is_url)) {
        findings.push(Finding::at(
            url,
            Rule::DiscoveryUrl,
            "discovery URL is not valid",
            "write the URL that the discovery service gave, with http:// or https://",
        ));
    }
}

fn check_encoding(root: &Node, findings: &mut Vec<Finding>) {
    for file in files(root) {
        let (Some(content), Some(encoding)) = (file.get("content"), file.get("encoding")) else { continue };
        let name = encoding.text().unwrap_or_default();
        let packed: String = content.text().unwrap_or_default().split_whitespace().collect();
        let standard = base64::engine::general_purpose::STANDARD;
        if (name.ends_with("base64") || name.ends_with("b64")) && standard.decode(packed).is_err() {
            findings.push(Finding::at(
                content,
                Rule::Encoding,
                format!("content cannot be decoded as \"{name}\""),
                "write what `base64 --wrap=0 FILE` prints",
            ));
        }
    }
}

fn check_deprecated(root: &Node, findings: &mut Vec<Finding>) {
    let Some(coreos) = root.get("coreos") else { return };
    for (key, _) in coreos.entries() {
        if let Some(name @ ("etcd" | "etcd2" | "fleet")) = key.text() {
            findings.push(Finding::at(
                key,
                Rule::Deprecated,
                format!("deprecated key \"{name}\" ({name} is no longer shipped in Container Linux)"),
                "fine on machines that have it; on newer ones give the machines an etcd by --etcd",
            ));
        }
    }
}

fn check_read_only(root: &Node, findings: &mut Vec<Finding>) {
    for path in files(root).filter_map(|file| file.get("path")) {
        let text = path.text().unwrap_or_default();
        // The one folder below /usr that can be written to.
        if text.starts_with("/usr/") && !text.starts_with("/usr/share/oem/") {
            findings.push(Finding::at(
                path,
                Rule::FilePath,
                "file cannot be written to a read-only filesystem",
                "use /opt/bin, /etc or /var/lib",
            ));
        }
    }
}

fn check_misplaced(root: &Node, findings: &mut Vec<Finding>) {
    let Some(coreos) = root.get("coreos") else { return };
    let is_files = |key: &Node| matches!(key.text(), Some("write_files" | "write-files"));
    for (key, _) in coreos.entries().iter().filter(|(key, _)| is_files(key)) {
        findings.push(Finding::at(
            key,
            Rule::Misplaced,
            "write_files doesn't belong under coreos",
            "move it to the left margin, beside coreos",
        ));
    }
}

fn check_hosts(root: &Node, findings: &mut Vec<Finding>) {
    if let Some(value) = root.get("manage_etc_hosts").filter(|value| value.text() != Some("localhost")) {
        findings.push(Finding::at(
            value,
            Rule::EtcHosts,
            "manage_etc_hosts other than localhost ends the application of the whole file",
            "write \"localhost\", or leave it out",
        ));
    }
}

fn check_temporary(root: &Node, findings: &mut Vec<Finding>) {
    for path in files(root).filter_map(|file| file.get("path")) {
        if path.text().is_some_and(is_temporary) {
            findings.push(Finding::at(
                path,
                Rule::TemporaryScript,
                "a folder for temporary files is emptied at boot, and may forbid programs",
                "use /opt/bin, /etc or /var/lib",
            ));
        }
    }
}

/// Spellings that readers of YAML understand differently, or that coreos-cloudinit's cannot read.
fn check_spelling(node: &Node, findings: &mut Vec<Finding>) {
    let is_bare_url = |item: &Node| matches!(&item.kind, Kind::Scalar { text, style: Style::Plain } if text.contains("://"));
    if let Kind::List { items, flow: true } = &node.kind
        && items.iter().any(is_bare_url)
    {
        findings.push(Finding::at(
            node,
            Rule::FlowList,
            "coreos-cloudinit's YAML cannot read URLs without quotes in a flow list",
            "write one line for each, `- \"URL\"`",
        ));
    }
    super::check_ambiguous(node, findings);
    for (_, value) in node.entries() {
        check_quotes(value, findings);
    }
    for item in node.items() {
        check_quotes(item, findings);
    }
}

/// Our own house rule: every text is in quotes, and lists have a line for each entry.
fn check_quotes(value: &Node, findings: &mut Vec<Finding>) {
    use super::yaml::Type;
    let is_bare = match &value.kind {
        Kind::Scalar { style: Style::Plain, .. } => {
            !value.is_ambiguous() && matches!(value.scalar_type(), Some(Type::Text))
        }
        Kind::List { items, flow: true } => !items.is_empty(),
        Kind::Map { entries, flow: true } => !entries.is_empty(),
        _ => false,
    };
    if is_bare {
        findings.push(Finding::at(
            value,
            Rule::Unquoted,
            "a text without quotes, or a list in one line",
            "put it in quotes, or each entry in a line of its own",
        ));
    }
}

fn check_indentation(text: &str, findings: &mut Vec<Finding>) {
    for (number, line) in (1..).zip(text.lines()) {
        let indent = &line[..line.len() - line.trim_start().len()];
        // Inside a block a tab after the blanks is text.
        if let Some(at) = indent.find('\t').filter(|_| indent.starts_with('\t')) {
            findings.push(Finding::new(
                number,
                at + 1,
                Rule::Tab,
                "YAML allows no tab in the indentation",
                "use blanks",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cloud_config;
    use crate::model::provision::lint::{Finding, Rule, Severity};

    /// A file with `body` has exactly one finding, of `rule`, in line `line` of the body.
    #[track_caller]
    fn check(rule: Rule, line: usize, body: &str) {
        let text = format!("#cloud-config\n{body}");
        let found: Vec<_> = cloud_config(&text)
            .into_iter()
            .filter(|finding| finding.rule != Rule::Deprecated)
            .map(|finding| (finding.line - 1, finding.rule))
            .collect();
        assert_eq!(found, [(line, rule)], "{text}");
    }

    #[track_caller]
    fn clean(body: &str) {
        let mut found = cloud_config(&format!("#cloud-config\n{body}"));
        found.retain(|finding| finding.rule != Rule::Deprecated);
        assert_eq!(found, [], "{body}");
    }

    #[test]
    fn a_missing_header_is_found() {
        let found = cloud_config("# cloud-config\nhostname: \"a\"\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].rule, found[0].severity), (Rule::Header, Severity::Error));
    }

    #[test]
    fn scalars_that_versions_of_yaml_read_differently_are_found() {
        check(Rule::Ambiguous, 3, "write_files:\n  - path: \"/etc/a\"\n    permissions: 0744\n");
        check(Rule::Ambiguous, 3, "coreos:\n  update:\n    reboot_strategy: off\n");
        check(Rule::Unquoted, 2, "ssh_authorized_keys:\n  - ssh-rsa AAAA\n");
        check(Rule::WrongType, 4, "coreos:\n  units:\n    - name: \"a.service\"\n      enable: \"true\"\n");
        check(Rule::WrongType, 3, "coreos:\n  etcd2:\n    snapshot_count: \"3\"\n");
        clean("coreos:\n  etcd2:\n    snapshot-count: 10000\n    debug: false\n");
    }

    #[test]
    fn text_that_coreos_cloudinits_yaml_cannot_read_is_found() {
        let found = cloud_config("#cloud-config\nssh_authorized_keys: [http://a, http://b]\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::FlowList), "{found:?}");
        check(Rule::Unquoted, 1, "ssh_authorized_keys: [\"http://a\", \"http://b\"]\n");
        let found = cloud_config("#cloud-config\ncoreos:\n\tetcd2:\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::Tab && finding.line == 3), "{found:?}");
        let found = cloud_config("#cloud-config\nhostname: \"a\n");
        assert!(found.iter().any(|finding| finding.rule == Rule::NotYaml), "{found:?}");
        check(Rule::DuplicateKey, 2, "hostname: \"a\"\nhostname: \"b\"\n");
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
    fn keys_and_values_that_coreos_cloudinit_refuses_are_found_in_its_words() {
        check(Rule::UnknownKey, 1, "runcmd: \"a\"\n");
        check(Rule::UnknownKey, 2, "coreos:\n  etcd3:\n    name: \"a\"\n");
        check(
            Rule::InvalidValue,
            4,
            "coreos:\n  units:\n    - name: \"a.service\"\n      command: \"begin\"\n",
        );
        check(Rule::InvalidValue, 3, "write_files:\n  - path: \"/etc/a\"\n    permissions: \"rwx\"\n");
        check(Rule::EtcHosts, 1, "manage_etc_hosts: \"all\"\n");
        check(Rule::UnitName, 3, "coreos:\n  units:\n    - name: \"a\"\n");
        check(Rule::UnitName, 3, "coreos:\n  units:\n    - command: \"start\"\n");
        let found = cloud_config("#cloud-config\ncoreos:\n  write_files:\n    - path: \"/etc/a\"\n");
        let texts: Vec<String> = found.iter().map(Finding::original).collect();
        assert_eq!(
            texts,
            [
                "line 3: warning: unrecognized key \"write_files\"",
                "line 3: info: write_files doesn't belong under coreos"
            ]
        );
    }

    #[test]
    fn what_is_old_or_encoded_wrongly_is_found() {
        let found = cloud_config("#cloud-config\ncoreos:\n  fleet:\n    verbosity: 1\n");
        assert_eq!(
            found[0].original(),
            "line 3: warning: deprecated key \"fleet\" (fleet is no longer shipped in Container Linux)"
        );
        check(
            Rule::Encoding,
            3,
            "write_files:\n  - path: \"/etc/a\"\n    content: \"%%\"\n    encoding: \"b64\"\n",
        );
        clean("write_files:\n  - path: \"/etc/a\"\n    content: \"aGk=\"\n    encoding: \"base64\"\n");
    }

    #[test]
    fn files_in_places_that_do_not_last_are_found() {
        check(
            Rule::TemporaryScript,
            2,
            "write_files:\n  - path: \"/tmp/start_consul.sh\"\n    permissions: \"0744\"\n",
        );
        check(Rule::FilePath, 2, "write_files:\n  - path: \"/usr/bin/a\"\n");
        clean("write_files:\n  - path: \"/usr/share/oem/a\"\n");
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

//! The rules for cloud-init's cloud-config: keys, types, and the spellings that it reads differently than meant.

use super::schema::{self, Reading, Want};
use super::yaml::{Kind, Node, parse};
use super::{Finding, Rule, Severity, embedded_unit, is_temporary, ports, unit_name};

const ENCODINGS: &[&str] =
    &["text/plain", "base64", "b64", "gz", "gzip", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64"];
const FILES: &[(&str, Want)] = &[
    ("path", Want::Text),
    ("content", Want::Text),
    ("owner", Want::Text),
    ("permissions", Want::Mode),
    ("encoding", Want::Word(ENCODINGS)),
    ("append", Want::Bool),
    ("defer", Want::Bool),
    ("source", Want::Any),
];
/// What stands at the top of a file; what is looked into no further is [`Want::Any`].
const TOP: Want = Want::Map(&[
    ("write_files", Want::Maps(FILES)),
    ("runcmd", Want::Any),
    ("bootcmd", Want::Any),
    ("hostname", Want::Text),
    ("fqdn", Want::Text),
    ("timezone", Want::Text),
    ("ssh_authorized_keys", Want::Texts),
    ("package_update", Want::Bool),
    ("package_upgrade", Want::Bool),
    ("package_reboot_if_required", Want::Bool),
    ("preserve_hostname", Want::Bool),
    ("disable_root", Want::Bool),
    ("ssh_deletekeys", Want::Bool),
    ("packages", Want::Any),
    ("users", Want::Any),
    ("user", Want::Any),
    ("groups", Want::Any),
    ("ansible", Want::Any),
    ("apk_repos", Want::Any),
    ("apt", Want::Any),
    ("apt_pipelining", Want::Any),
    ("autoinstall", Want::Any),
    ("byobu_by_default", Want::Any),
    ("ca-certs", Want::Any),
    ("ca_certs", Want::Any),
    ("chef", Want::Any),
    ("chpasswd", Want::Any),
    ("cloud_config_modules", Want::Any),
    ("cloud_final_modules", Want::Any),
    ("cloud_init_modules", Want::Any),
    ("create_hostname_file", Want::Any),
    ("datasource", Want::Any),
    ("datasource_list", Want::Any),
    ("device_aliases", Want::Any),
    ("disable_ec2_metadata", Want::Any),
    ("disable_root_opts", Want::Any),
    ("disk_setup", Want::Any),
    ("drivers", Want::Any),
    ("fan", Want::Any),
    ("final_message", Want::Any),
    ("fs_setup", Want::Any),
    ("growpart", Want::Any),
    ("grub-dpkg", Want::Any),
    ("grub_dpkg", Want::Any),
    ("keyboard", Want::Any),
    ("landscape", Want::Any),
    ("locale", Want::Any),
    ("locale_configfile", Want::Any),
    ("lxd", Want::Any),
    ("manage_etc_hosts", Want::Any),
    ("manage_resolv_conf", Want::Any),
    ("mcollective", Want::Any),
    ("merge_how", Want::Any),
    ("merge_type", Want::Any),
    ("mount_default_fields", Want::Any),
    ("mounts", Want::Any),
    ("network", Want::Any),
    ("no_ssh_fingerprints", Want::Any),
    ("ntp", Want::Any),
    ("output", Want::Any),
    ("password", Want::Any),
    ("phone_home", Want::Any),
    ("power_state", Want::Any),
    ("prefer_fqdn_over_hostname", Want::Any),
    ("puppet", Want::Any),
    ("random_seed", Want::Any),
    ("reporting", Want::Any),
    ("resize_rootfs", Want::Any),
    ("resolv_conf", Want::Any),
    ("rh_subscription", Want::Any),
    ("rsyslog", Want::Any),
    ("salt_minion", Want::Any),
    ("snap", Want::Any),
    ("spacewalk", Want::Any),
    ("ssh", Want::Any),
    ("ssh_fp_console_blacklist", Want::Any),
    ("ssh_genkeytypes", Want::Any),
    ("ssh_import_id", Want::Any),
    ("ssh_key_console_blacklist", Want::Any),
    ("ssh_keys", Want::Any),
    ("ssh_publish_hostkeys", Want::Any),
    ("ssh_pwauth", Want::Any),
    ("ssh_quiet_keygen", Want::Any),
    ("swap", Want::Any),
    ("system_info", Want::Any),
    ("ubuntu_advantage", Want::Any),
    ("ubuntu_pro", Want::Any),
    ("updates", Want::Any),
    ("vendor_data", Want::Any),
    ("version", Want::Any),
    ("wireguard", Want::Any),
    ("yum_repo_dir", Want::Any),
    ("yum_repos", Want::Any),
    ("zypper", Want::Any),
]);
/// What coreos-cloudinit replaces, and cloud-init does not.
const FOREIGN: [&str; 4] = ["$private_ipv4", "$public_ipv4", "$private_ipv6", "$public_ipv6"];

/// How user-data begins that is neither a cloud-config nor a script, and what cloud-init reads it as.
const FORMS: &[(&str, &str)] = &[
    ("#include", "a list of places to read from"),
    ("#cloud-boothook", "a program for every boot"),
    ("#cloud-config-archive", "an archive"),
    ("#part-handler", "a program that reads other parts"),
    ("content-type: multipart/", "a message of several parts (MIME)"),
    ("mime-version:", "a message of several parts (MIME)"),
];

/// Such a form of user-data. A template that holds no variables is read as what it is already.
pub(super) fn form_of(text: &str) -> Option<&'static str> {
    let first = text.lines().next().unwrap_or_default().to_ascii_lowercase();
    let is_template = first.strip_prefix("##").is_some_and(|rest| rest.trim_start().starts_with("template:"));
    if is_template && ["{{", "{%"].iter().any(|mark| text.contains(mark)) {
        return Some("a template");
    }
    FORMS.iter().find(|(start, _)| first.starts_with(start)).map(|(_, form)| *form)
}

/// Checks a file for cloud-init, and the units in it. An empty list: nothing to change.
pub fn cloud_init(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(form) = form_of(text) {
        let reason = format!("cloud-init reads this as {form}: what is in it is not looked at here");
        findings.push(Finding::new(1, 1, Rule::NotLookedAt, reason, "check its parts by themselves"));
        return findings;
    }
    let mut lines = text.lines().map(str::trim_end);
    let first = lines.next().unwrap_or_default();
    let header = if first == "## template: jinja" { lines.next().unwrap_or_default() } else { first };
    if header != "#cloud-config" {
        findings.push(Finding::new(
            1,
            1,
            Rule::Header,
            "cloud-init takes this for no cloud-config, and ignores it",
            "write exactly `#cloud-config` in the first line",
        ));
    }
    match parse(text) {
        Ok(Some(root)) => check(&root, text, &mut findings),
        Ok(None) => {}
        Err(fault) => findings.push(Finding::not_yaml(text, &fault)),
    }
    check_foreign(text, &mut findings);
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

fn check(root: &Node, text: &str, findings: &mut Vec<Finding>) {
    let (mut types, values) = schema::check(root, TOP, Reading::Exact);
    // What is unknown at the margin is ignored; inside what is known it is refused.
    for finding in types.iter_mut().filter(|finding| finding.rule == Rule::UnknownKey && finding.column > 1) {
        finding.severity = Severity::Error;
        "leave it out, or write the key that was meant".clone_into(&mut finding.fix);
    }
    findings.extend(types);
    findings.extend(values);
    let mut units: Vec<(&Node, &str)> = Vec::new();
    for file in root.get("write_files").map(Node::items).unwrap_or_default() {
        let Some(path) = file.get("path") else {
            let fix = "begin it with `- path: \"/…\"`";
            findings.push(Finding::at(file, Rule::InvalidValue, "a file without a path", fix));
            continue;
        };
        let name = path.text().unwrap_or_default();
        if is_temporary(name) {
            findings.push(Finding::at(
                path,
                Rule::TemporaryScript,
                "a folder for temporary files is emptied at boot, and may forbid programs",
                "use /usr/local/bin, /opt/bin, /etc or /var/lib",
            ));
        }
        let is_unit = name.contains("/systemd/system/")
            && name.rsplit('/').next().is_some_and(|file| {
                std::path::Path::new(file).extension().is_some_and(|kind| kind == "conf")
                    || unit_name::fault(file).is_none()
            });
        if let Some(content) = file.get("content").filter(|_| is_unit) {
            findings.extend(embedded_unit(text, content));
            units.push((content, unit_of(name)));
        }
    }
    findings.extend(ports::check(text, &units));
    for key in ["runcmd", "bootcmd"] {
        if let Some(commands) = root.get(key) {
            check_commands(key, commands, findings);
        }
    }
    root.visit(&mut |node| {
        super::check_ambiguous(node, findings);
        if !units.iter().any(|(unit, _)| std::ptr::eq(*unit, node)) {
            super::check_docker(text, node, findings);
        }
    });
}

/// The name of the unit that a file, or a drop-in, is for: `a.service` of `…/a.service` and of `…/a.service.d/1.conf`.
fn unit_of(path: &str) -> &str {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let unit = folder.rsplit('/').next().and_then(|folder| folder.strip_suffix(".d"));
    unit.unwrap_or(file)
}

/// A command is a text or a list of texts; a colon and a blank in a bare text make a map of it.
fn check_commands(key: &str, commands: &Node, findings: &mut Vec<Finding>) {
    let mut find = |node: &Node, what: &str, fix: &str| {
        // None of the commands is run then.
        let severity = Severity::Error;
        findings.push(Finding { severity, ..Finding::at(node, Rule::WrongType, what, fix) });
    };
    if !matches!(commands.kind, Kind::List { .. } | Kind::Alias) {
        find(
            commands,
            &format!("incorrect type for \"{key}\" (want []string)"),
            "write one `- \"…\"` in each line",
        );
    }
    for command in commands.items() {
        let words = std::iter::once(command).chain(command.items());
        if let Some(map) = words.clone().find(|word| matches!(word.kind, Kind::Map { .. })) {
            find(
                map,
                "a command is no map: a colon with a blank behind it makes one",
                "put the command in quotes",
            );
        }
        if let Some(list) = command.items().iter().find(|word| matches!(word.kind, Kind::List { .. })) {
            find(list, "a word of a command is no list", "put the words of one command into one list");
        }
    }
}

fn check_foreign(text: &str, findings: &mut Vec<Finding>) {
    for (number, line) in (1..).zip(text.lines()) {
        for variable in FOREIGN {
            if let Some(at) = line.find(variable) {
                findings.push(Finding::new(
                    number,
                    line[..at].chars().count() + 1,
                    Rule::ForeignVariable,
                    format!("cloud-init does not replace `{variable}`: that is coreos-cloudinit's"),
                    "let the program look its address up, as in `--advertise auto`",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cloud_init;
    use crate::model::provision::lint::Rule;

    /// A file with `body` has exactly one finding, of `rule`, in this line and column of the body.
    #[track_caller]
    fn check(rule: Rule, place: (usize, usize), body: &str) {
        let found: Vec<_> = cloud_init(&format!("#cloud-config\n{body}"))
            .into_iter()
            .map(|finding| ((finding.line - 1, finding.column), finding.rule))
            .collect();
        assert_eq!(found, [(place, rule)], "{body}");
    }

    #[track_caller]
    fn clean(text: &str) {
        assert_eq!(cloud_init(text), [], "{text}");
    }

    #[test]
    fn files_that_cloud_init_takes_are_clean() {
        clean("#cloud-config\nruncmd:\n  - echo hi\n  - [\"ls\", -l]\nhostname: a\npackage_update: true\n");
        clean("## template: jinja\n#cloud-config\ntimezone: Europe/Paris\n");
    }

    #[test]
    fn what_it_ignores_or_refuses_is_found() {
        assert_eq!(cloud_init("\n#cloud-config\nhostname: a\n")[0].rule, Rule::Header);
        check(Rule::UnknownKey, (1, 1), "hostnme: a\n");
        check(Rule::UnknownKey, (1, 1), "coreos:\n  units: []\n");
        check(Rule::WrongType, (1, 1), "package_update: \"true\"\n");
        check(Rule::WrongType, (2, 5), "runcmd:\n  - echo a: b\n");
        check(Rule::WrongType, (1, 9), "runcmd: ls\n");
        check(Rule::Ambiguous, (2, 10), "power_state:\n  delay: 12:30\n");
        check(Rule::WrongType, (3, 5), "write_files:\n  - path: /etc/a\n    permissions: 644\n");
        check(Rule::InvalidValue, (3, 5), "write_files:\n  - path: /etc/a\n    encoding: rot13\n");
        check(Rule::InvalidValue, (2, 5), "write_files:\n  - content: a\n");
        check(Rule::TemporaryScript, (2, 11), "write_files:\n  - path: /tmp/a\n");
        check(Rule::ForeignVariable, (1, 11), "hostname: $private_ipv4\n");
        check(Rule::NotYaml, (1, 4), "a: [\n");
    }

    #[test]
    fn units_among_its_files_are_checked_with_their_own_lines() {
        let files = "write_files:\n  - path: \"/etc/systemd/system/a.service\"\n    content: |\n";
        check(Rule::TemporaryScript, (5, 7), &format!("{files}      [Service]\n      ExecStart=/tmp/a\n"));
    }
}

//! The rules for unit files, as systemd and fleet read them.

use super::{Finding, LINE_BYTES_LIMIT, OPEN_DOCKER, OPEN_DOCKER_FIX, Rule, is_temporary, opens_docker};

/// All keys that fleet knows without a warning.
const FLEET_KEYS: [&str; 6] =
    ["MachineID", "MachineOf", "MachineMetadata", "Conflicts", "Global", "Replaces"];
/// Pairs that fleet, or a version of it, refuses in one unit.
const FLEET_PAIRS: [(&str, &str); 8] = [
    ("Global", "Conflicts"),
    ("Global", "MachineOf"),
    ("Global", "MachineID"),
    ("Global", "Replaces"),
    ("MachineID", "MachineOf"),
    ("MachineID", "Conflicts"),
    ("MachineID", "Replaces"),
    ("Conflicts", "Replaces"),
];
/// What `/etc/environment` is asked for; coreos-cloudinit leaves them empty when it does not know.
const ADDRESS_VARIABLES: [&str; 4] =
    ["COREOS_PRIVATE_IPV4", "COREOS_PUBLIC_IPV4", "COREOS_PRIVATE_IPV6", "COREOS_PUBLIC_IPV6"];

/// How long systemd waits for the start of a unit that does not say it, in seconds (`DefaultTimeoutStartSec=`).
const START_TIMEOUT_SECONDS: u64 = 90;

pub(super) struct Entry {
    line: usize,
    column: usize,
    section: String,
    key: String,
    pub(super) value: String,
}

impl Entry {
    pub(super) fn finding(&self, rule: Rule, reason: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding::new(self.line, self.column, rule, reason, fix)
    }
}

/// An option of a unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitOption {
    /// The section that it stands in; empty before the first.
    pub section: String,
    /// Its name.
    pub key: String,
    /// Its value, continued lines joined by blanks.
    pub value: String,
}

/// The options of a unit file, in their order.
pub fn options(text: &str) -> Vec<UnitOption> {
    let option = |entry: Entry| UnitOption { section: entry.section, key: entry.key, value: entry.value };
    parse(text, &mut Vec::new()).into_iter().map(option).collect()
}

/// What the unit runs while it is up.
pub(super) fn commands(text: &str) -> Vec<Entry> {
    let entries = parse(text, &mut Vec::new()).into_iter();
    entries.filter(|entry| entry.section == "Service" && entry.key == "ExecStart").collect()
}

/// Checks a unit file, or a drop-in of one. An empty list: nothing to change.
pub fn unit(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let entries = parse(text, &mut findings);
    check_fleet(&entries, &mut findings);
    for entry in &entries {
        check_value(entry, &mut findings);
    }
    check_addresses(&entries, &mut findings);
    check_downloads(&entries, &mut findings);
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Checks a unit in a file of its own: something must say when it starts. What empties `ExecStart=` before it sets it is a
/// drop-in, whatever it is called, and belongs to a unit that says it.
pub fn unit_file(text: &str) -> Vec<Finding> {
    let mut findings = unit(text);
    let entries = parse(text, &mut Vec::new());
    let has = |section: &str| entries.iter().any(|entry| entry.section == section);
    let is_drop_in = entries.iter().any(|entry| entry.key == "ExecStart" && entry.value.is_empty());
    let start = entries.iter().find(|entry| entry.section == "Service" && entry.key == "ExecStart");
    if let Some(start) = start.filter(|_| has("Unit") && !has("Install") && !has("X-Fleet") && !is_drop_in) {
        findings.push(start.finding(
            Rule::NotInstallable,
            "neither [Install] nor [X-Fleet]: nothing starts this unit by itself",
            "end it with `[Install]` and `WantedBy=multi-user.target`, unless another unit starts it",
        ));
        findings.sort_by_key(|finding| finding.line);
    }
    findings
}

fn parse(text: &str, findings: &mut Vec<Finding>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut section: Option<String> = None;
    let mut continues = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.len() >= LINE_BYTES_LIMIT {
            findings.push(Finding::new(
                number,
                1,
                Rule::LineTooLong,
                format!("the line has {} bytes; fleet refuses {LINE_BYTES_LIMIT}", line.len()),
                "continue it with \\",
            ));
        }
        let trimmed = line.trim();
        let column = line.chars().take_while(|character| character.is_whitespace()).count() + 1;
        let is_comment = trimmed.starts_with(['#', ';']);
        if continues {
            if is_comment {
                findings.push(Finding::new(
                    number,
                    column,
                    Rule::CommentInContinuation,
                    "a comment inside a continued line breaks fleet's parser",
                    "put it above the option",
                ));
                continue;
            }
            if let Some(entry) = entries.last_mut() {
                entry.value.push(' ');
                entry.value.push_str(trimmed.trim_end_matches('\\').trim_end());
            }
            continues = trimmed.ends_with('\\');
            continue;
        }
        if trimmed.is_empty() || is_comment {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            match rest.split_once(']') {
                Some((name, "")) => section = Some(name.to_owned()),
                Some((name, _)) => {
                    section = Some(name.to_owned());
                    findings.push(Finding::new(
                        number,
                        column,
                        Rule::NotAnOption,
                        "text follows the section's name",
                        "end the line with `]`",
                    ));
                }
                None => {
                    findings.push(Finding::new(
                        number,
                        column,
                        Rule::NotAnOption,
                        "the section's name has no `]`",
                        "write it as in `[Service]`",
                    ));
                }
            }
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            findings.push(Finding::new(
                number,
                column,
                Rule::NotAnOption,
                format!("`{trimmed}` is no option"),
                "write `Key=value`, or `#` before a comment",
            ));
            continue;
        };
        if section.is_none() {
            findings.push(Finding::new(
                number,
                column,
                Rule::OptionBeforeSection,
                format!("`{key}` stands before the first section, where it is dropped in silence"),
                "put it below `[Unit]` or `[Service]`",
            ));
        }
        continues = value.ends_with('\\');
        entries.push(Entry {
            line: number,
            column,
            section: section.clone().unwrap_or_default(),
            key: key.trim().to_owned(),
            value: value.trim_end_matches('\\').trim().to_owned(),
        });
    }
    entries
}

fn check_fleet(entries: &[Entry], findings: &mut Vec<Finding>) {
    let is_true =
        |value: &str| ["true", "yes", "1", "on", "t"].iter().any(|word| value.eq_ignore_ascii_case(word));
    let fleet: Vec<&Entry> = entries.iter().filter(|entry| entry.section == "X-Fleet").collect();
    for entry in &fleet {
        if !FLEET_KEYS.contains(&entry.key.as_str()) {
            findings.push(entry.finding(
                Rule::FleetKey,
                format!("unrecognized requirement in [X-Fleet] section: \"{}\"", entry.key),
                format!("fleet knows {}", FLEET_KEYS.join(", ")),
            ));
        }
    }
    let find = |key: &str| {
        fleet.iter().rfind(|entry| entry.key == key && (key != "Global" || is_true(&entry.value)))
    };
    for (one, other) in FLEET_PAIRS {
        if let (Some(_), Some(entry)) = (find(one), find(other)) {
            findings.push(entry.finding(
                Rule::FleetCombination,
                format!("`{one}` and `{other}` exclude each other in fleet, or in some versions of it"),
                "keep one of the two",
            ));
        }
    }
    if !fleet.is_empty()
        && let Some(entry) = entries.iter().find(|entry| entry.section == "Install")
    {
        findings.push(entry.finding(
            Rule::FleetInstall,
            "fleet 1.0 enables [Install] of its units, older versions do not",
            "leave it out: fleet starts the unit",
        ));
    }
}

fn check_value(entry: &Entry, findings: &mut Vec<Finding>) {
    let mut find = |rule, reason: &str, fix: &str| findings.push(entry.finding(rule, reason, fix));
    let value = entry.value.as_str();
    if opens_docker(value) || (entry.key == "ListenStream" && value == "2375") {
        find(Rule::DockerOnTcp, OPEN_DOCKER, OPEN_DOCKER_FIX);
    }
    if !entry.key.starts_with("Exec") {
        return;
    }
    if words(value).any(is_temporary) {
        find(
            Rule::TemporaryScript,
            "a folder for temporary files is emptied at boot, and may forbid programs",
            "use /opt/bin or /var/lib",
        );
    }
    let is_loop = words(value).any(|word| word == "until" || word == "while");
    if !is_loop && words(value).any(|word| word == "sleep" || word.ends_with("/sleep")) {
        find(
            Rule::Sleep,
            "`sleep` waits for a time, not for what is awaited",
            "poll: `until …; do sleep 1; done`",
        );
    }
    if entry.key == "ExecStartPre" && !value.starts_with('-') {
        let words: Vec<&str> = words(value).collect();
        let cleans = words
            .windows(2)
            .any(|pair| pair[0].ends_with("docker") && ["kill", "rm", "stop"].contains(&pair[1]));
        if cleans {
            find(
                Rule::CleanupMustNotFail,
                "there may be nothing to clean up, and then the unit does not start",
                "begin with `ExecStartPre=-`",
            );
        }
    }
    for port in [":53/udp", ":8600/udp"] {
        let published = words(value).filter(|word| word.contains(':') && word.ends_with(port));
        let lacks_tcp = published
            .filter_map(|word| word.strip_suffix("/udp"))
            .any(|tcp| !words(value).any(|word| word == tcp || word.strip_suffix("/tcp") == Some(tcp)));
        if lacks_tcp {
            find(Rule::DnsOnlyUdp, "long DNS answers need TCP", "publish the port without /udp as well");
        }
    }
}

/// The parts of a command between blanks, quotes and what a shell separates commands by.
pub(super) fn words(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(|character: char| character.is_whitespace() || "'\";|&()<>=".contains(character))
        .filter(|word| !word.is_empty())
        .map(|word| word.trim_start_matches(['-', '@', '!', '+']))
}

fn check_addresses(entries: &[Entry], findings: &mut Vec<Finding>) {
    let is_loaded = entries
        .iter()
        .any(|entry| entry.key == "EnvironmentFile" && entry.value.ends_with("/etc/environment"));
    for variable in ADDRESS_VARIABLES {
        let is_checked = entries.iter().any(|entry| {
            entry.key == "ExecStartPre"
                && !entry.value.starts_with('-')
                && entry.value.contains(variable)
                && entry.value.contains("exit 1")
        });
        let user = entries.iter().find(|entry| entry.value.contains(variable));
        if let Some(user) = user.filter(|_| !(is_loaded && is_checked)) {
            findings.push(user.finding(
                Rule::AddressUnchecked,
                format!("{variable} may be empty"),
                "load EnvironmentFile=/etc/environment, and end an ExecStartPre with exit 1 if it is",
            ));
        }
    }
}

fn check_downloads(entries: &[Entry], findings: &mut Vec<Finding>) {
    let is_set = |entry: &Entry| ["TimeoutStartSec", "TimeoutSec"].contains(&entry.key.as_str());
    // The last one holds, as in systemd.
    let timeout = entries.iter().rfind(|entry| is_set(entry)).and_then(|entry| seconds(&entry.value));
    if timeout.is_some_and(|timeout| timeout == 0 || timeout > START_TIMEOUT_SECONDS) {
        return;
    }
    let download = entries.iter().find(|entry| {
        let words: Vec<&str> = words(&entry.value).collect();
        entry.key.starts_with("ExecStart")
            && (words.windows(2).any(|pair| pair[0].ends_with("docker") && pair[1] == "pull")
                || words
                    .iter()
                    .any(|word| ["curl", "wget"].iter().any(|tool| word.rsplit('/').next() == Some(tool))))
    });
    if let Some(entry) = download {
        findings.push(entry.finding(
            Rule::DownloadTimeout,
            "a download may take longer than systemd waits",
            "set TimeoutStartSec=0",
        ));
    }
}

/// A time span as systemd reads it (systemd.time(7)), in seconds: `30min`, `1h 30s`, `90`, `infinity`, which is as much as
/// 0 where a limit is meant. `None`: it is none.
fn seconds(text: &str) -> Option<u64> {
    if text == "infinity" {
        return Some(0);
    }
    let mut rest = text.trim();
    let mut sum = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "us" | "usec" | "ms" | "msec" => 0,
            "" | "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hr" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 24 * 3600,
            "w" | "week" | "weeks" => 7 * 24 * 3600,
            _ => return None,
        };
        sum = sum.saturating_add(count.saturating_mul(unit));
        rest = rest[letters..].trim_start();
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::{unit, unit_file};
    use crate::model::provision::lint::Rule;

    /// `text` has exactly one finding, of `rule`, in `line`.
    #[track_caller]
    fn check(rule: Rule, line: usize, text: &str) {
        let found: Vec<_> = unit(text).into_iter().map(|finding| (finding.line, finding.rule)).collect();
        assert_eq!(found, [(line, rule)], "{text}");
    }

    #[track_caller]
    fn clean(text: &str) {
        assert_eq!(unit(text), [], "{text}");
    }

    #[test]
    fn lines_that_fleets_parser_refuses_or_drops_are_found() {
        check(Rule::LineTooLong, 2, &format!("[Service]\nExecStart=/a {}\n", "b".repeat(2048 - 13)));
        clean(&format!("[Service]\nExecStart=/a {}\n", "b".repeat(2047 - 13)));
        check(Rule::CommentInContinuation, 3, "[Service]\nExecStart=/a \\\n# why\n  b\n");
        check(Rule::OptionBeforeSection, 1, "Description=x\n[Unit]\n");
        check(Rule::NotAnOption, 2, "[Unit]\nDescription\n");
        check(Rule::NotAnOption, 1, "[Unit] x\n");
        check(Rule::NotAnOption, 1, "[Unit\n");
        clean("# a\n; b\n\n[Service]\nExecStart=/a \\\n  --b \\\n  c=d\nRestart=always\n");
    }

    #[test]
    fn keys_that_fleet_does_not_know_or_refuses_together_are_found() {
        check(Rule::FleetKey, 2, "[X-Fleet]\nX-Conflicts=a\n");
        for key in ["Conflicts", "MachineOf", "MachineID", "Replaces"] {
            check(Rule::FleetCombination, 3, &format!("[X-Fleet]\nGlobal=true\n{key}=a\n"));
            clean(&format!("[X-Fleet]\nGlobal=false\n{key}=a\n"));
        }
        check(Rule::FleetCombination, 2, "[X-Fleet]\nMachineOf=a\nMachineID=b\n");
        check(Rule::FleetInstall, 2, "[Install]\nWantedBy=a\n[X-Fleet]\nGlobal=1\n");
        clean("[X-Fleet]\nGlobal=true\nMachineMetadata=a=b\n");
    }

    #[test]
    fn commands_that_go_wrong_on_real_machines_are_found() {
        check(Rule::TemporaryScript, 2, "[Service]\nExecStart=/tmp/start_consul.sh %i\n");
        check(Rule::TemporaryScript, 2, "[Service]\nExecStart=/bin/sh '/var/tmp/a'\n");
        clean(
            "[Service]\nExecStart=/usr/bin/docker run -v /var/run/docker.sock:/tmp/docker.sock registrator\n",
        );
        check(Rule::DockerOnTcp, 2, "[Service]\nExecStart=/a -H tcp://0.0.0.0:2375\n");
        check(Rule::DockerOnTcp, 2, "[Socket]\nListenStream=2375\n");
        check(Rule::Sleep, 2, "[Service]\nExecStartPost=/bin/sleep 1\n");
        clean("[Service]\nExecStartPost=/bin/sh -c 'until test -e /run/a; do sleep 1; done'\n");
        check(Rule::CleanupMustNotFail, 2, "[Service]\nExecStartPre=/usr/bin/docker rm consul\n");
        clean("[Service]\nExecStartPre=-/usr/bin/docker rm consul\n");
        check(Rule::DownloadTimeout, 2, "[Service]\nExecStartPre=/usr/bin/docker pull a\n");
        check(Rule::DownloadTimeout, 2, "[Service]\nExecStart=/usr/bin/curl https://a.example\n");
        for timeout in ["0", "infinity", "30min", "1h 30s", "900"] {
            clean(&format!("[Service]\nTimeoutStartSec={timeout}\nExecStartPre=/usr/bin/docker pull a\n"));
        }
        for timeout in ["90", "1min 30s", "5", "soon", ""] {
            let text = format!("[Service]\nTimeoutStartSec={timeout}\nExecStartPre=/usr/bin/docker pull a\n");
            check(Rule::DownloadTimeout, 3, &text);
        }
    }

    #[test]
    fn a_file_that_nothing_starts_is_found_and_a_drop_in_is_none() {
        let found = |text: &str| {
            unit_file(text).into_iter().map(|found| (found.line, found.rule)).collect::<Vec<_>>()
        };
        let body = "[Unit]\nDescription=a\n[Service]\nExecStart=/a\n";
        assert_eq!(found(body), [(4, Rule::NotInstallable)]);
        for more in ["[Install]\nWantedBy=a.target\n", "[X-Fleet]\nGlobal=true\n", "[Service]\nExecStart=\n"]
        {
            assert_eq!(found(&format!("{body}{more}")), [], "{more}");
        }
        assert_eq!(found("[Service]\nExecStart=\nExecStart=/a\n"), []);
        // coreos-cloudinit starts units of its own file by `command`.
        clean(body);
    }

    #[test]
    fn dns_on_udp_alone_is_found() {
        check(Rule::DnsOnlyUdp, 2, "[Service]\nExecStart=/a -p 172.17.0.1:53:53/udp\n");
        check(Rule::DnsOnlyUdp, 2, "[Service]\nExecStart=/a -p 53:53/udp -p 53:8600/udp -p 53:53\n");
        clean("[Service]\nExecStart=/a -p 172.17.0.1:53:53 -p 172.17.0.1:53:53/udp\n");
    }

    #[test]
    fn addresses_that_may_be_empty_are_found() {
        let uses = "[Service]\nExecStart=/a ${COREOS_PRIVATE_IPV4}\n";
        check(Rule::AddressUnchecked, 2, uses);
        check(Rule::AddressUnchecked, 2, &format!("{uses}EnvironmentFile=/etc/environment\n"));
        clean(&format!(
            "{uses}EnvironmentFile=/etc/environment\nExecStartPre=/bin/sh -c 'test -n \"$$COREOS_PRIVATE_IPV4\" || exit 1'\n"
        ));
    }
}

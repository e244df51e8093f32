//! The rules for Ignition configs, and for the Butane configs that they are made of.

use super::super::binary::{SHA512_DIGITS, is_digest};
use super::schema::{self, Reading, Want};
use super::yaml::{Fault, Node, Type, parse};
use super::{Finding, Rule, embedded_unit, ports, unit_name, units_in};

/// Versions of Ignition's specification that are finished.
const VERSIONS: [&str; 7] = ["3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0", "3.6.0"];
/// Variants of Butane, with their versions.
const VARIANTS: [(&str, &[&str]); 4] = [
    ("flatcar", &["1.0.0", "1.1.0"]),
    ("fcos", &["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0"]),
    ("r4e", &["1.0.0", "1.1.0"]),
    ("openshift", &["4.8.0", "4.9.0", "4.10.0", "4.11.0", "4.12.0", "4.13.0", "4.14.0", "4.15.0", "4.16.0"]),
];
/// What Ignition fetches from.
const SCHEMES: [&str; 7] = ["http", "https", "tftp", "s3", "gs", "arn", "data"];
/// Hash functions, with the hexadecimal digits of their results.
const HASHES: [(&str, usize); 2] = [("sha512", SHA512_DIGITS), ("sha256", 64)];
/// Largest mode: setuid, setgid, sticky and nine bits of permission.
const MODE_MAX: u32 = 0o7777;
/// Modes whose octal digits are often written where a decimal number is read. None of them is the decimal form of
/// another usual mode.
const OCTAL_LOOKALIKES: [&str; 17] = [
    "400", "440", "444", "500", "555", "600", "640", "644", "664", "700", "744", "750", "755", "775", "777",
    "1777", "4755",
];

const RESOURCE: &[(&str, Want)] = &[
    ("source", Want::Text),
    ("compression", Want::Word(&["gzip"])),
    ("httpHeaders", Want::Any),
    ("verification", Want::Map(&[("hash", Want::Text)])),
];
const OWNER: Want = Want::Map(&[("id", Want::Int), ("name", Want::Text)]);
const FILES: &[(&str, Want)] = &[
    ("path", Want::Text),
    ("overwrite", Want::Bool),
    ("mode", Want::Int),
    ("contents", Want::Map(RESOURCE)),
    ("append", Want::Maps(RESOURCE)),
    ("user", OWNER),
    ("group", OWNER),
];
const DIRECTORIES: &[(&str, Want)] = &[
    ("path", Want::Text),
    ("overwrite", Want::Bool),
    ("mode", Want::Int),
    ("user", OWNER),
    ("group", OWNER),
];
const LINKS: &[(&str, Want)] = &[
    ("path", Want::Text),
    ("target", Want::Text),
    ("hard", Want::Bool),
    ("overwrite", Want::Bool),
    ("user", OWNER),
    ("group", OWNER),
];
const UNITS: &[(&str, Want)] = &[
    ("name", Want::Text),
    ("enabled", Want::Bool),
    ("mask", Want::Bool),
    ("contents", Want::Text),
    ("dropins", Want::Maps(&[("name", Want::Text), ("contents", Want::Text)])),
];
const TOP: Want = Want::Map(&[
    (
        "ignition",
        Want::Map(&[
            ("version", Want::Text),
            ("config", Want::Map(&[("merge", Want::Maps(RESOURCE)), ("replace", Want::Map(RESOURCE))])),
            ("proxy", Want::Any),
            ("security", Want::Any),
            ("timeouts", Want::Any),
        ]),
    ),
    ("kernelArguments", Want::Map(&[("shouldExist", Want::Texts), ("shouldNotExist", Want::Texts)])),
    ("passwd", Want::Map(&[("users", Want::Any), ("groups", Want::Any)])),
    (
        "storage",
        Want::Map(&[
            ("files", Want::Maps(FILES)),
            ("directories", Want::Maps(DIRECTORIES)),
            ("links", Want::Maps(LINKS)),
            ("disks", Want::Any),
            ("filesystems", Want::Any),
            ("luks", Want::Any),
            ("raid", Want::Any),
        ]),
    ),
    ("systemd", Want::Map(&[("units", Want::Maps(UNITS))])),
]);

/// Checks an Ignition config, and the units in it. An empty list: nothing to change.
pub fn ignition(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let reason = error.to_string();
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason).to_owned();
        let fault = Fault { line: error.line().max(1), column: error.column().max(1), reason };
        let finding = Finding::not_yaml(text, &fault);
        let fix = "this is not JSON: look for a comma, a quote or a bracket too many or too few".to_owned();
        return vec![Finding { fix, ..finding }];
    }
    match parse(text) {
        Ok(Some(root)) => {
            check_version(&root, &mut findings);
            let (types, values) = schema::check(&root, TOP, Reading::Exact);
            findings.extend(types);
            findings.extend(values);
            check(&root, text, &mut findings);
        }
        Ok(None) => {}
        Err(fault) => findings.push(Finding::not_yaml(text, &fault)),
    }
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

/// Checks a Butane config: what Ignition would find in what becomes of it.
pub fn butane(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    match parse(text) {
        Ok(Some(root)) => {
            check_variant(&root, &mut findings);
            check(&root, text, &mut findings);
        }
        Ok(None) => {}
        Err(fault) => findings.push(Finding::not_yaml(text, &fault)),
    }
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

fn check_version(root: &Node, findings: &mut Vec<Finding>) {
    let version = root.get("ignition").and_then(|ignition| ignition.get("version"));
    let Some(version) = version else {
        findings.push(Finding::at(
            root,
            Rule::Version,
            "ignition.version is missing",
            "write \"ignition\": {\"version\": \"3.3.0\"}",
        ));
        return;
    };
    let text = version.text().unwrap_or_default();
    if !VERSIONS.contains(&text) {
        findings.push(Finding::at(
            version,
            Rule::Version,
            format!("unsupported config version {text}"),
            "use 3.3.0, which all machines since 2022 read; version 2 is another language",
        ));
    }
}

fn check_variant(root: &Node, findings: &mut Vec<Finding>) {
    let variant = root.get("variant").and_then(Node::text).unwrap_or_default();
    let version = root.get("version");
    let versions = VARIANTS.iter().find(|(name, _)| *name == variant).map(|(_, versions)| *versions);
    let (node, reason, known) = match versions {
        None => (
            root.get("variant").unwrap_or(root),
            format!("unknown variant \"{variant}\""),
            "flatcar or fcos".to_owned(),
        ),
        Some(versions) => {
            let text = version.and_then(Node::text).unwrap_or_default();
            if versions.contains(&text) {
                return;
            }
            (version.unwrap_or(root), format!("unknown version \"{text}\" of {variant}"), versions.join(", "))
        }
    };
    findings.push(Finding::at(node, Rule::Version, reason, format!("use {known}")));
}

fn check(root: &Node, text: &str, findings: &mut Vec<Finding>) {
    if let Some(storage) = root.get("storage") {
        check_storage(storage, findings);
    }
    let mut names: Vec<(&str, usize)> = Vec::new();
    let units =
        root.get("systemd").and_then(|systemd| systemd.get("units")).map(Node::items).unwrap_or_default();
    for unit in units {
        let Some(name) = unit.get("name") else {
            findings.push(Finding::at(unit, Rule::UnitName, "a unit without a name", "give it a \"name\""));
            continue;
        };
        unit_name::check(name, findings);
        check_twice(name, &mut names, findings);
        for drop_in in unit.get("dropins").map(Node::items).unwrap_or_default() {
            let is_drop_in = |name: &&Node| {
                let text = name.text().unwrap_or_default();
                std::path::Path::new(text).extension().is_some_and(|extension| extension == "conf")
            };
            if let Some(name) = drop_in.get("name").filter(|name| !is_drop_in(name)) {
                let fix = "end its name with `.conf`";
                findings.push(Finding::at(name, Rule::UnitName, "invalid systemd drop-in extension", fix));
            }
        }
        let is_enabled = unit.get("enabled").and_then(Node::text) == Some("true");
        let contents = unit.get("contents").and_then(Node::text);
        if let Some(contents) = contents.filter(|contents| is_enabled && !contents.contains("[Install]")) {
            let is_empty = contents.trim().is_empty();
            findings.push(Finding::at(
                name,
                Rule::NotInstallable,
                if is_empty {
                    "an empty unit is enabled"
                } else {
                    "it is enabled, but has no [Install] section"
                },
                "end the unit with `[Install]` and `WantedBy=multi-user.target`",
            ));
        }
    }
    let units = units_in(root, &["systemd", "units"], "contents");
    for (node, _) in &units {
        findings.extend(embedded_unit(text, node));
    }
    findings.extend(ports::check(text, &units));
}

fn check_twice<'a>(node: &'a Node, seen: &mut Vec<(&'a str, usize)>, findings: &mut Vec<Finding>) {
    let name = node.text().unwrap_or_default();
    if let Some((_, line)) = seen.iter().find(|(earlier, _)| *earlier == name) {
        findings.push(Finding::at(
            node,
            Rule::Twice,
            format!("`{name}` stands in line {line} already"),
            "keep one of the two",
        ));
    }
    seen.push((name, node.line));
}

fn check_storage(storage: &Node, findings: &mut Vec<Finding>) {
    let mut paths: Vec<(&str, usize)> = Vec::new();
    for kind in ["files", "directories", "links"] {
        for entry in storage.get(kind).map(Node::items).unwrap_or_default() {
            if let Some(path) = entry.get("path") {
                check_twice(path, &mut paths, findings);
                if !path.text().unwrap_or_default().starts_with('/') {
                    findings.push(Finding::at(
                        path,
                        Rule::InvalidValue,
                        "path not absolute",
                        "begin the path with `/`",
                    ));
                }
            } else {
                findings.push(Finding::at(
                    entry,
                    Rule::InvalidValue,
                    "path is missing",
                    "give it a \"path\"",
                ));
            }
            if let Some(mode) = entry.get("mode") {
                check_mode(mode, findings);
            }
            let appended = entry.get("append").map(Node::items).unwrap_or_default();
            for resource in entry.get("contents").into_iter().chain(appended) {
                check_resource(resource, findings);
            }
        }
    }
}

fn check_mode(mode: &Node, findings: &mut Vec<Finding>) {
    let text = mode.text().unwrap_or_default();
    if text.parse::<u32>().is_ok_and(|mode| mode > MODE_MAX) {
        let fix = "write a decimal number of at most 4095; 420 is octal 0644, 493 is 0755";
        findings.push(Finding::at(mode, Rule::InvalidValue, "illegal file mode", fix));
    }
    if mode.scalar_type() == Some(Type::Int) && OCTAL_LOOKALIKES.contains(&text) {
        let decimal = u32::from_str_radix(text, 8).unwrap_or_default();
        findings.push(Finding::at(
            mode,
            Rule::DecimalMode,
            format!("the mode {text} is decimal here"),
            format!("write {decimal}, which is octal {text}"),
        ));
    }
}

fn check_resource(contents: &Node, findings: &mut Vec<Finding>) {
    let hash = contents.get("verification").and_then(|verification| verification.get("hash"));
    if let Some(hash) = hash {
        let text = hash.text().unwrap_or_default();
        let is_known = |(function, digits): &(&str, usize)| {
            let result = text.strip_prefix(function).and_then(|rest| rest.strip_prefix('-'));
            result.is_some_and(|hex| is_digest(hex, *digits))
        };
        if !HASHES.iter().any(is_known) {
            findings.push(Finding::at(
                hash,
                Rule::InvalidValue,
                "unrecognized hash function, or not as many digits as it has",
                format!("write `sha512-` and the {SHA512_DIGITS} digits that `sha512sum FILE` prints"),
            ));
        }
    }
    let Some(source) = contents.get("source") else { return };
    let text = source.text().unwrap_or_default();
    let scheme = text.split(':').next().unwrap_or_default();
    if !text.is_empty() && !SCHEMES.contains(&scheme) {
        let fix = format!("use one of {}", SCHEMES.join(", "));
        findings.push(Finding::at(source, Rule::InvalidValue, "invalid url scheme", fix));
    } else if !text.is_empty() && scheme != "data" && hash.is_none() {
        findings.push(Finding::at(
            source,
            Rule::Unverified,
            "whoever controls the network controls what this file holds",
            "give its verification.hash: `sha512-` and what `sha512sum FILE` prints",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{butane, ignition};
    use crate::model::provision::lint::{Finding, Rule};

    #[track_caller]
    fn one(found: Vec<Finding>, rule: Rule, place: (usize, usize)) {
        let found: Vec<_> =
            found.into_iter().map(|finding| (finding.rule, (finding.line, finding.column))).collect();
        assert_eq!(found, [(rule, place)]);
    }

    /// A config with `body` after its version has exactly one finding.
    #[track_caller]
    fn check(rule: Rule, column: usize, body: &str) {
        let text = format!("{{\"ignition\": {{\"version\": \"3.3.0\"}},\n{body}}}\n");
        one(ignition(&text), rule, (2, column));
    }

    #[test]
    fn what_ignition_refuses_is_found_with_its_place() {
        one(ignition("{\"ignition\": {}}"), Rule::Version, (1, 1));
        one(ignition("{\"ignition\": {\"version\": \"2.2.0\"}}"), Rule::Version, (1, 26));
        one(ignition("{\"ignition\":\n {\"version\" \"3.3.0\"}}"), Rule::NotYaml, (2, 13));
        check(Rule::InvalidValue, 32, "\"storage\": {\"files\": [{\"path\": \"etc/a\"}]}");
        check(Rule::Twice, 48, "\"storage\": {\"files\": [{\"path\": \"/a\"}, {\"path\": \"/a\"}]}");
        check(Rule::UnknownKey, 13, "\"systemd\": {\"unit\": []}");
        check(Rule::UnitName, 32, "\"systemd\": {\"units\": [{\"name\": \"a\"}]}");
        check(
            Rule::WrongType,
            45,
            "\"systemd\": {\"units\": [{\"name\": \"a.service\", \"enabled\": \"x\"}]}",
        );
    }

    #[test]
    fn what_ignition_takes_and_means_differently_is_found() {
        check(Rule::DecimalMode, 46, "\"storage\": {\"files\": [{\"path\": \"/a\", \"mode\": 644}]}");
        check(
            Rule::Unverified,
            61,
            "\"storage\": {\"files\": [{\"path\": \"/a\", \"contents\": {\"source\": \"http://a/b\"}}]}",
        );
        check(
            Rule::NotInstallable,
            32,
            "\"systemd\": {\"units\": [{\"name\": \"a.service\", \"enabled\": true, \"contents\": \"[Service]\\nExecStart=/a\\n\"}]}",
        );
        check(
            Rule::TemporaryScript,
            57,
            "\"systemd\": {\"units\": [{\"name\": \"a.service\", \"contents\": \"[Service]\\nExecStart=/tmp/a\\n\"}]}",
        );
    }

    #[test]
    fn butane_is_checked_for_its_variant_and_for_what_becomes_of_it() {
        assert_eq!(butane("variant: flatcar\nversion: 1.1.0\n"), []);
        one(butane("variant: flatcar\nversion: 1.5.0\n"), Rule::Version, (2, 10));
        one(butane("variant: coreos\nversion: 1.5.0\n"), Rule::Version, (1, 10));
        let file = "variant: fcos\nversion: 1.5.0\nstorage:\n  files:\n    - path: /a\n";
        one(butane(&format!("{file}      mode: 755\n")), Rule::DecimalMode, (6, 13));
        assert_eq!(butane(&format!("{file}      mode: 0755\n")), []);
    }
}

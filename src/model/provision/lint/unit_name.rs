//! The names that fleet, and with it systemd, gives to units. The texts are fleet's.

use super::yaml::Node;
use super::{Finding, Rule};

/// Longest name in bytes.
const BYTES_MAX: usize = 256;
/// Types of unit.
const TYPES: [&str; 12] = [
    "automount",
    "busname",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "snapshot",
    "socket",
    "swap",
    "target",
];
/// The type that fleet lists last.
const TIMER: &str = "timer";
/// Types that can be templates.
const TEMPLATE_TYPES: [&str; 5] = ["path", "service", "socket", "target", TIMER];
/// Configuration of the network, which is no unit, but comes the same way.
const NETWORK_TYPES: [&str; 3] = ["network", "netdev", "link"];

/// Why `name` is no unit's name, as fleet says it.
pub fn fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("unit name cannot be empty".to_owned());
    }
    if name.len() > BYTES_MAX {
        return Some(format!("unit name exceeds maximum length ({BYTES_MAX})"));
    }
    let Some((_, kind)) = name.rsplit_once('.') else {
        return Some("unit name must contain \".\"".to_owned());
    };
    if kind.is_empty() {
        return Some("unit name cannot end in \".\"".to_owned());
    }
    if !TYPES.contains(&kind) && kind != TIMER {
        return Some(format!("invalid unit type: \"{kind}\""));
    }
    if name.contains('@') && !TEMPLATE_TYPES.contains(&kind) {
        return Some(format!("invalid unit type for template: \"{kind}\""));
    }
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || ":_.@\\-".contains(character);
    if let Some(character) = name.chars().find(|character| !is_allowed(*character)) {
        return Some(format!("invalid character '{character}' in unit name"));
    }
    name.starts_with('@').then(|| "unit name cannot start in \"@\"".to_owned())
}

/// Checks the name of a unit in a file of units.
pub(super) fn check(name: &Node, findings: &mut Vec<Finding>) {
    let text = name.text().unwrap_or_default();
    let is_network = text.rsplit_once('.').is_some_and(|(_, kind)| NETWORK_TYPES.contains(&kind));
    if let Some(fault) = fault(text).filter(|_| !is_network) {
        findings.push(Finding::at(
            name,
            Rule::UnitName,
            fault,
            "name it as in `web.service` or `web@1.service`",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn names_are_refused_in_fleets_words_and_order() {
        for (name, text) in [
            ("", "unit name cannot be empty"),
            ("a", "unit name must contain \".\""),
            ("a.", "unit name cannot end in \".\""),
            ("a.x", "invalid unit type: \"x\""),
            ("a@1.mount", "invalid unit type for template: \"mount\""),
            ("a b.service", "invalid character ' ' in unit name"),
            ("@a.service", "unit name cannot start in \"@\""),
        ] {
            assert_eq!(fault(name).as_deref(), Some(text), "{name}");
        }
        assert_eq!(
            fault(&format!("{}.service", "a".repeat(256))).unwrap(),
            "unit name exceeds maximum length (256)"
        );
        for name in ["a.service", "a@.timer", "dev-\\x2d.mount", "a:b@1.service"] {
            assert_eq!(fault(name), None, "{name}");
        }
    }
}

//! Templates of hashicorp/go-sockaddr, as Consul's users write them in `-bind`, `-client` and `-advertise`:
//! `{{ GetPrivateInterfaces | include "network" "10.0.0.0/8" | attr "address" }}`.
//!
//! All functions that give, filter, sort and print addresses are there. What is not (`math`, the loops and conditions of Go's
//! templates) is refused by name. Several values with `|` between them mean any of them, for `exclude` too; and interfaces
//! that are `down` are those that are not `up`. Addresses that `sort` does not tell apart keep the kernel's order.

mod list;
mod read;
mod token;

use super::Facts;
use list::List;

/// Longest template in bytes; the longest that people show has 200.
pub const TEMPLATE_BYTES_MAX: usize = 4096;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Nobody writes one so long.
    #[error("it has {0} bytes; {TEMPLATE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// `{{` without `}}`, a quote that is not closed, and the like.
    #[error("{0}")]
    Syntax(String),
    /// Not a function of go-sockaddr, or one that is not built.
    #[error(
        "there is no function `{0}`: there are GetPrivateIP, GetPrivateIPs, GetPublicIP, GetPublicIPs, GetInterfaceIP, \
         GetInterfaceIPs, GetAllInterfaces, GetDefaultInterfaces, GetPrivateInterfaces, GetPublicInterfaces, include, \
         exclude, sort, unique, limit, offset, attr and join"
    )]
    Unknown(String),
    /// What a function cannot take.
    #[error("{function}: {reason}")]
    Argument {
        /// The function.
        function: &'static str,
        /// Why not.
        reason: String,
    },
    /// Interfaces cannot be printed as they are.
    #[error("it gives interfaces, not text: end it in `| attr \"address\"`")]
    NoText,
    /// `GetDefaultInterfaces`, where nothing leads out.
    #[error("this machine has no default route, which GetDefaultInterfaces needs")]
    NoDefaultRoute,
    /// `offset` beyond the end.
    #[error("offset {offset} is behind the last of {count} addresses")]
    Offset {
        /// Where to.
        offset: i64,
        /// How many there are.
        count: usize,
    },
}

/// A template that can be used.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Addresses(List),
}

/// Reads a template; text around the braces stays as it is.
///
/// # Errors
/// Names what is not understood.
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(TemplateError::TooLong(text.len()));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        let action = token::action(behind)?;
        let before = if action.trims_before { before.trim_end() } else { before };
        parts.push(Part::Text(before.to_owned()));
        parts.push(Part::Addresses(read::list(&action.tokens)?));
        rest = if action.trims_behind { action.rest.trim_start() } else { action.rest };
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(Template(parts))
}

impl Template {
    /// What it gives on a machine with these facts.
    ///
    /// # Errors
    /// When a function cannot work there.
    pub fn expand(&self, facts: &Facts) -> Result<String, TemplateError> {
        let mut result = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => result.push_str(text),
                Part::Addresses(list) => result.push_str(&list.text(facts)?),
            }
        }
        Ok(result)
    }
}

/// What `text` gives on a machine with these facts; text without a template stays as it is.
///
/// # Errors
/// Names what is not understood, or why a function cannot work there.
pub fn expand(text: &str, facts: &Facts) -> Result<String, TemplateError> {
    parse(text)?.expand(facts)
}

#[cfg(test)]
mod tests {
    use super::{TEMPLATE_BYTES_MAX, expand, parse};
    use crate::model::address::Facts;
    use crate::model::address::tests::facts;

    fn machine() -> Facts {
        let mut facts = facts(&[
            "lo 127.0.0.1/8 loopback",
            "lo ::1/128 loopback",
            "eth0 10.0.0.7/24",
            "eth0 fd00::7/64",
            "eth0 fe80::7/64",
            "eth1 192.168.1.7/16",
            "eth1 10.9.0.7/30",
            "docker0 172.17.0.1/16",
            "wan0 8.8.4.7/24",
            "old0 10.3.0.1/24 down",
        ]);
        facts.default_interface = Some("eth1".to_owned());
        facts
    }

    #[track_caller]
    fn gives(template: &str, expected: &str) {
        assert_eq!(expand(template, &machine()).unwrap(), expected, "{template}");
    }

    #[test]
    fn the_short_forms_give_addresses() {
        gives("10.0.0.1", "10.0.0.1");
        gives("{{ GetPrivateIP }}", "192.168.1.7");
        gives("{{GetPrivateIP}}", "192.168.1.7");
        gives("{{ GetPublicIP }}", "8.8.4.7");
        gives("{{ GetPublicIPs }}", "8.8.4.7");
        gives("{{ GetInterfaceIP \"eth0\" }}", "10.0.0.7");
        gives("{{ GetInterfaceIP `eth1` }}", "192.168.1.7");
        gives("{{ GetInterfaceIPs \"eth0\" }}", "10.0.0.7 fd00::7 fe80::7");
        gives("{{ GetInterfaceIP \"eth7\" }}", "");
        gives("127.0.0.1 {{ GetInterfaceIP \"docker0\" }}", "127.0.0.1 172.17.0.1");
        gives(" a {{- GetInterfaceIP \"docker0\" -}} b", " a172.17.0.1b");
        gives("{{ GetPrivateIPs }}", "192.168.1.7 172.17.0.1 10.0.0.7 10.3.0.1 10.9.0.7 fd00::7");
    }

    #[test]
    fn what_people_write_with_consul_works() {
        gives(r#"{{ GetPrivateInterfaces | include "network" "10.0.0.0/8" | attr "address" }}"#, "10.9.0.7");
        gives(
            r#"{{ GetAllInterfaces | include "network" "10.0.0.0/8" | sort "-address" | attr "address" }}"#,
            "10.9.0.7",
        );
        gives(
            r#"{{ GetAllInterfaces | include "name" "^eth" | include "flags" "forwardable|up" | include "type" "ipv4" | attr "address" }}"#,
            "10.0.0.7",
        );
        gives(
            r#"{{ GetDefaultInterfaces | include "type" "IPv4" | limit 1 | join "address" " " }}"#,
            "192.168.1.7",
        );
        gives(r#"{{ GetDefaultInterfaces | attr "name" }}"#, "eth1");
        gives(
            r#"{{ GetPrivateInterfaces | exclude "type" "ipv6" | exclude "name" "docker" | join "address" " " }} {{ GetAllInterfaces | include "flags" "loopback" | join "address" " " }}"#,
            "192.168.1.7 10.9.0.7 10.0.0.7 127.0.0.1 ::1",
        );
        gives(
            r#"{{ GetAllInterfaces | include "name" "eth0|lo" | exclude "flags" "link-local unicast" | join "address" " " }}"#,
            "127.0.0.1 ::1 10.0.0.7 fd00::7",
        );
        gives(r#"{{ GetPublicInterfaces | include "type" "IPv6" | sort "-address" | attr "address" }}"#, "");
        gives(
            r#"{{ GetAllInterfaces | include "rfc" "1918" | sort "size,name" | attr "address" }}"#,
            "172.17.0.1",
        );
        gives(r#"{{ GetAllInterfaces | include "size" "30" | attr "network" }}"#, "10.9.0.4");
        gives(
            r#"{{ GetAllInterfaces | include "name" "eth" | unique "name" | join "name" "," }}"#,
            "eth0,eth1",
        );
        gives(r#"{{ GetAllInterfaces | include "name" "eth" | offset -1 | attr "string" }}"#, "10.9.0.7/30");
        gives(r#"{{ attr "address" (GetAllInterfaces | include "name" "eth1") }}"#, "192.168.1.7");
        gives(r#"{{ . | include "address" "^10[.]9[.]" | attr "mask_bits" }}"#, "30");
    }

    #[track_caller]
    fn refused(template: &str, part: &str) {
        let error = expand(template, &machine()).unwrap_err().to_string();
        assert!(error.contains(part), "{template}: {error}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        refused("{{ GetMyIP }}", "no function `GetMyIP`");
        refused(r#"{{ GetAllInterfaces | math "address" "+1" | attr "address" }}"#, "no function `math`");
        refused("{{ range GetAllInterfaces }}x{{ end }}", "no function `range`");
        refused("{{ GetPrivateIP", "`}}`");
        refused("{{ }}", "nothing");
        refused(r#"{{ GetInterfaceIP "eth0 }}"#, "quote");
        refused("{{ GetInterfaceIP }}", "GetInterfaceIP: ");
        refused("{{ GetPrivateIP \"x\" }}", "GetPrivateIP: ");
        refused("{{ GetAllInterfaces }}", "attr");
        refused("{{ GetPrivateIP | attr \"address\" }}", "attr: ");
        refused("{{ attr \"address\" }}", "attr: ");
        refused(r#"{{ GetAllInterfaces | include "colour" "red" | attr "address" }}"#, "colour");
        refused(r#"{{ GetAllInterfaces | include "network" "10/8" | attr "address" }}"#, "10/8");
        refused(r#"{{ GetAllInterfaces | include "name" "(" | attr "address" }}"#, "(");
        refused(r#"{{ GetAllInterfaces | include "rfc" "1" | attr "address" }}"#, "RFC 1");
        refused(r#"{{ GetAllInterfaces | include "flags" "fast" | attr "address" }}"#, "fast");
        refused(r#"{{ GetAllInterfaces | include "type" "ipx" | attr "address" }}"#, "ipx");
        refused(r#"{{ GetAllInterfaces | sort "colour" | attr "address" }}"#, "colour");
        refused(r#"{{ GetAllInterfaces | attr "colour" }}"#, "colour");
        refused(r#"{{ GetAllInterfaces | limit "x" | attr "address" }}"#, "limit: ");
        refused(r#"{{ GetAllInterfaces | offset 99 | attr "address" }}"#, "offset 99");
        refused(&format!("{{{{ {} }}}}", "(".repeat(100)), "brackets");
        refused(&" ".repeat(TEMPLATE_BYTES_MAX + 1), "bytes");
        let nowhere = Facts { default_interface: None, ..machine() };
        let template = parse("{{ GetDefaultInterfaces | attr \"name\" }}").unwrap();
        assert!(template.expand(&nowhere).unwrap_err().to_string().contains("no default route"));
    }
}

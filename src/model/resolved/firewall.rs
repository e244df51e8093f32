//! What lets containers ask the resolver through a firewall of the machine. Rules are for bridges of containers alone:
//! for whoever else came in the resolver would be an open one.

use serde::Deserialize;

/// What asks `nft` for the chains that [`Firewall::of_chains`] reads.
pub const LIST_CHAINS: [&str; 3] = ["-j", "list", "chains"];

/// How the link is called that is asked over as containers of a network of the user's are: `br-<id>` are the bridges of
/// those, which docker compose makes for each project, and rules for `br-+` are for all of them.
pub const BRIDGE_PREFIX: &str = "br-";

/// With ufw, which keeps rules itself. Without a protocol both, UDP and TCP, are let through.
const UFW: &str = "ufw allow in on docker0 to 169.254.53.1 port 53 && \
     ufw allow in on br-+ to 169.254.53.1 port 53";
/// With iptables, and where no firewall is known.
const IPTABLES: &str = "iptables -I INPUT -i docker0 -d 169.254.53.1 -p udp --dport 53 -j ACCEPT && \
     iptables -I INPUT -i docker0 -d 169.254.53.1 -p tcp --dport 53 -j ACCEPT && \
     iptables -I INPUT -i br-+ -d 169.254.53.1 -p udp --dport 53 -j ACCEPT && \
     iptables -I INPUT -i br-+ -d 169.254.53.1 -p tcp --dport 53 -j ACCEPT";
/// The bridges, as nft matches them.
const NFT_BRIDGES: [&str; 2] = ["docker0", "br-*"];
/// Families of nft's tables that packets of IPv4 to this machine pass.
const NFT_FAMILIES: [&str; 2] = ["ip", "inet"];

/// Who decides what comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firewall {
    /// ufw is enabled.
    Ufw,
    /// Chains of nft that drop what they do not accept, and whether that of iptables does so too. What one chain accepts the
    /// next one may still drop, so each needs the rule.
    Nft {
        /// The chains.
        chains: Vec<Chain>,
        /// That of iptables drops too.
        iptables: bool,
    },
    /// iptables, or one that is not known.
    Iptables,
}

/// A chain of nft, of plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    family: String,
    table: String,
    name: String,
}

impl Chain {
    /// What iptables itself made with nft's help: nft would take rules there, but not keep them with the others.
    fn is_of_iptables(&self) -> bool {
        self.family == "ip" && self.table == "filter" && self.name == "INPUT"
    }

    /// Whether it can stand in a command: nft takes names that would need quotes, and more.
    fn is_plain(&self) -> bool {
        [&self.table, &self.name].into_iter().all(|name| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        })
    }

    fn allow(&self) -> String {
        let rule = |bridge: &&str| {
            format!(
                "nft 'insert rule {} {} {} iifname \"{bridge}\" ip daddr 169.254.53.1 meta l4proto {{ tcp, udp }} th dport 53 accept'",
                self.family, self.table, self.name
            )
        };
        NFT_BRIDGES.iter().map(rule).collect::<Vec<_>>().join(" && ")
    }
}

#[derive(Deserialize)]
struct Listed {
    nftables: Vec<Entry>,
}

/// One thing of the list; those that are no chains have another name.
#[derive(Deserialize)]
struct Entry {
    chain: Option<ListedChain>,
}

#[derive(Deserialize)]
struct ListedChain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

impl Firewall {
    /// The firewall of a machine without ufw, by what `nft -j list chains` prints.
    pub fn of_chains(listed: &str) -> Self {
        let Ok(listed) = serde_json::from_str::<Listed>(listed) else { return Self::Iptables };
        let chains = listed.nftables.into_iter().filter_map(|entry| entry.chain);
        let drops = chains.filter(|chain| {
            chain.hook.as_deref() == Some("input")
                && chain.policy.as_deref() == Some("drop")
                && NFT_FAMILIES.contains(&chain.family.as_str())
        });
        let named = drops.map(|ListedChain { family, table, name, .. }| Chain { family, table, name });
        let (of_iptables, others): (Vec<Chain>, Vec<Chain>) =
            named.filter(Chain::is_plain).partition(Chain::is_of_iptables);
        if others.is_empty() {
            return Self::Iptables;
        }
        Self::Nft { chains: others, iptables: !of_iptables.is_empty() }
    }

    /// The command that lets containers ask, for a shell.
    pub fn allow(&self) -> String {
        match self {
            Self::Ufw => UFW.to_owned(),
            Self::Iptables => IPTABLES.to_owned(),
            Self::Nft { chains, iptables } => {
                let rules = chains.iter().map(Chain::allow);
                rules.chain(iptables.then(|| IPTABLES.to_owned())).collect::<Vec<_>>().join(" && ")
            }
        }
    }

    /// Where the rule has to stand too, to be there after a boot; `None`: it is kept by itself.
    pub fn kept(&self) -> Option<&'static str> {
        match self {
            Self::Ufw => None,
            Self::Iptables => Some("keep that with your other rules"),
            Self::Nft { .. } => Some("keep that with your other rules (/etc/nftables.conf)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BRIDGE_PREFIX, Firewall, IPTABLES, UFW};
    use crate::model::resolved::LINK_ADDRESS;

    /// What nft 1.0.6 prints for a machine with Docker, whose firewall is in a table of its own.
    const LISTED: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "DOCKER", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 3, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip6", "table": "own", "name": "in6", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "own", "name": "incoming", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}
    ]}"#;

    fn all() -> Vec<Firewall> {
        let both = LISTED.replace(r#""prio": 0, "policy": "accept""#, r#""prio": 0, "policy": "drop""#);
        vec![Firewall::Ufw, Firewall::Iptables, Firewall::of_chains(LISTED), Firewall::of_chains(&both)]
    }

    #[test]
    fn what_a_firewall_is_told_is_for_our_address_and_for_bridges_of_containers_alone() {
        for firewall in all() {
            for rule in firewall.allow().split(" && ") {
                assert!(rule.contains(&format!(" {LINK_ADDRESS} ")), "{rule}");
                let bridges = ["docker0", "br-+", "br-*"]
                    .map(|name| rule.contains(&format!(" {name} ")) || rule.contains(&format!("\"{name}\"")));
                assert_eq!(bridges.iter().filter(|is| **is).count(), 1, "{rule}");
            }
            let rules = firewall.allow();
            assert!(rules.contains("docker0") && rules.contains(BRIDGE_PREFIX), "{rules}");
        }
        assert_eq!(IPTABLES.matches(" -p udp ").count(), IPTABLES.matches(" -p tcp ").count());
        assert!(!UFW.contains("proto"), "both");
    }

    #[test]
    fn a_chain_of_nft_that_drops_gets_the_rule_itself_because_what_another_accepts_is_dropped_there() {
        let firewall = Firewall::of_chains(LISTED);
        assert_eq!(
            firewall.allow(),
            "nft 'insert rule inet own incoming iifname \"docker0\" ip daddr 169.254.53.1 meta l4proto { tcp, udp } th dport 53 accept' && \
             nft 'insert rule inet own incoming iifname \"br-*\" ip daddr 169.254.53.1 meta l4proto { tcp, udp } th dport 53 accept'"
        );
        assert!(firewall.kept().unwrap().contains("/etc/nftables.conf"));
        let both = &all()[3];
        assert!(both.allow().ends_with(IPTABLES) && both.allow().starts_with("nft "), "{both:?}");
    }

    #[test]
    fn without_such_a_chain_iptables_is_told_and_names_that_are_no_plain_words_stand_in_no_command() {
        let accepts = LISTED.replace(r#""policy": "drop""#, r#""policy": "accept""#);
        let of_iptables =
            LISTED.replace("inet", "ip").replace("incoming", "INPUT").replace(r#""own""#, r#""filter""#);
        let hostile = LISTED.replace("incoming", "x; reboot");
        for listed in [&accepts, &of_iptables, &hostile, "", "[]", "{\"nftables\": 1}"] {
            assert_eq!(Firewall::of_chains(listed), Firewall::Iptables, "{listed}");
        }
    }
}

//! What files say about a machine's addresses: `/etc/environment` of old CoreOS, and what coreos-metadata and Afterburn write.
//!
//! Each cloud has names of its own (Afterburn, `docs/usage/attributes.md` and `legacy-attributes.md`).

/// Longest file that is read, in bytes: they have a dozen short lines.
pub const FILE_BYTES_MAX: usize = 64 << 10;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, without quotes.
    pub value: String,
}

/// Which address a variable is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Between the machines of one cloud or site.
    Private,
    /// From anywhere.
    Public,
}

/// coreos-cloudinit's names, in `/etc/environment`.
const CLOUDINIT: [(&str, Kind); 4] = [
    ("COREOS_PRIVATE_IPV4", Kind::Private),
    ("COREOS_PUBLIC_IPV4", Kind::Public),
    ("COREOS_PRIVATE_IPV6", Kind::Private),
    ("COREOS_PUBLIC_IPV6", Kind::Public),
];
/// What coreos-metadata, and Afterburn on Flatcar, begin their names with; and Afterburn elsewhere.
const PREFIXES: [&str; 2] = ["COREOS_", "AFTERBURN_"];
/// The rest of the names. IPv4 before IPv6: an address of both kinds is chosen as Consul does.
const CLOUDS: [(&str, Kind); 36] = [
    ("ALIYUN_IPV4_PRIVATE", Kind::Private),
    ("AWS_IPV4_LOCAL", Kind::Private),
    ("EC2_IPV4_LOCAL", Kind::Private),
    // The address that Azure's DHCP gives; the virtual one is its load balancer's.
    ("AZURE_IPV4_DYNAMIC", Kind::Private),
    ("AKAMAI_PRIVATE_IPV4_0", Kind::Private),
    ("CLOUDSTACK_IPV4_LOCAL", Kind::Private),
    ("CUSTOM_PRIVATE_IPV4", Kind::Private),
    ("DIGITALOCEAN_IPV4_PRIVATE_0", Kind::Private),
    ("EXOSCALE_LOCAL_IPV4", Kind::Private),
    ("GCE_IP_LOCAL_0", Kind::Private),
    ("GCP_IP_LOCAL_0", Kind::Private),
    ("HETZNER_PRIVATE_IPV4_0", Kind::Private),
    ("OPENSTACK_IPV4_LOCAL", Kind::Private),
    ("PACKET_IPV4_PRIVATE_0", Kind::Private),
    ("SCALEWAY_IPV4_PRIVATE", Kind::Private),
    ("VAGRANT_VIRTUALBOX_PRIVATE_IPV4", Kind::Private),
    ("CUSTOM_PRIVATE_IPV6", Kind::Private),
    ("DIGITALOCEAN_IPV6_PRIVATE_0", Kind::Private),
    ("ALIYUN_EIPV4", Kind::Public),
    ("ALIYUN_IPV4_PUBLIC", Kind::Public),
    ("AWS_IPV4_PUBLIC", Kind::Public),
    ("EC2_IPV4_PUBLIC", Kind::Public),
    ("AZURE_IPV4_VIRTUAL", Kind::Public),
    ("AKAMAI_PUBLIC_IPV4_0", Kind::Public),
    ("CLOUDSTACK_IPV4_PUBLIC", Kind::Public),
    ("CUSTOM_PUBLIC_IPV4", Kind::Public),
    ("DIGITALOCEAN_IPV4_PUBLIC_0", Kind::Public),
    ("EXOSCALE_PUBLIC_IPV4", Kind::Public),
    ("GCE_IP_EXTERNAL_0", Kind::Public),
    ("GCP_IP_EXTERNAL_0", Kind::Public),
    ("HETZNER_PUBLIC_IPV4", Kind::Public),
    ("OPENSTACK_IPV4_PUBLIC", Kind::Public),
    ("PACKET_IPV4_PUBLIC_0", Kind::Public),
    ("SCALEWAY_IPV4_PUBLIC", Kind::Public),
    ("CUSTOM_PUBLIC_IPV6", Kind::Public),
    ("DIGITALOCEAN_IPV6_PUBLIC_0", Kind::Public),
];

/// Which address a variable of this name holds, and its rank among the names of that kind; `None` for all other names.
pub fn meaning(name: &str) -> Option<(Kind, usize)> {
    let of = |table: &[(&str, Kind)], name: &str| {
        table.iter().position(|(known, _)| *known == name).map(|rank| (table[rank].1, rank))
    };
    of(&CLOUDINIT, name).or_else(|| {
        let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        of(&CLOUDS, rest).map(|(kind, rank)| (kind, rank + CLOUDINIT.len()))
    })
}

/// The assignments of a file, as systemd's `EnvironmentFile=` reads them: `NAME=value`, quoted or not, `#` comments. The
/// last of a name wins. Lines that are no assignment say nothing.
pub fn parse(text: &str) -> Vec<Variable> {
    let mut found: Vec<Variable> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) else {
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        let unquoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)));
        found.retain(|variable| variable.name != name);
        found.push(Variable { name: name.to_owned(), value: unquoted.unwrap_or(value).to_owned() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{CLOUDS, Kind, Variable, meaning, parse};

    #[test]
    fn names_of_all_clouds_are_known_and_those_beside_them_are_not() {
        for name in ["COREOS_PRIVATE_IPV4", "COREOS_EC2_IPV4_LOCAL", "AFTERBURN_AWS_IPV4_LOCAL"] {
            assert_eq!(meaning(name).map(|(kind, _)| kind), Some(Kind::Private), "{name}");
        }
        for name in ["COREOS_PUBLIC_IPV4", "AFTERBURN_GCP_IP_EXTERNAL_0", "COREOS_PACKET_IPV4_PUBLIC_0"] {
            assert_eq!(meaning(name).map(|(kind, _)| kind), Some(Kind::Public), "{name}");
        }
        for name in [
            "AFTERBURN_PACKET_IPV4_PRIVATE_GATEWAY_0",
            "COREOS_DIGITALOCEAN_IPV4_ANCHOR_0",
            "PATH",
            "COREOS_",
        ] {
            assert_eq!(meaning(name), None, "{name}");
        }
        let mut names: Vec<&str> = CLOUDS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CLOUDS.len());
    }

    #[test]
    fn a_file_is_read_as_systemd_reads_it() {
        let text = "# made by hand\nA=1\n  B = \"two\" \nexport C='3'\nA=4\nnonsense\n;D=5\nE=\n";
        let expected = [("B", "two"), ("C", "3"), ("A", "4"), ("E", "")];
        let expected: Vec<Variable> = expected
            .iter()
            .map(|(name, value)| Variable { name: (*name).to_owned(), value: (*value).to_owned() })
            .collect();
        assert_eq!(parse(text), expected);
    }
}

//! How answers are given: `dns_config` as values.

use std::collections::BTreeMap;
use std::time::Duration;

/// Most answers to a UDP question without EDNS, whatever is configured (Consul's cap).
pub(super) const UDP_ANSWERS_MAX: usize = 8;

/// Times of the zone's SOA record (`dns_config.soa`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoaPolicy {
    /// How often secondaries ask.
    pub refresh: Duration,
    /// How often they try again.
    pub retry: Duration,
    /// When they give up.
    pub expire: Duration,
    /// How long a "no" may be kept; also the record's TTL.
    pub min_ttl: Duration,
}

impl Default for SoaPolicy {
    fn default() -> Self {
        Self {
            refresh: Duration::from_hours(1),
            retry: Duration::from_mins(10),
            expire: Duration::from_hours(24),
            min_ttl: Duration::ZERO,
        }
    }
}

/// How answers are given; the defaults are Consul's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "these are the switches of `dns_config`, each on its own")]
pub struct Policy {
    /// TTL of node records.
    pub node_ttl: Duration,
    /// TTL by service name; a `*` at the end makes it a prefix. The longest match counts.
    pub service_ttl: BTreeMap<String, Duration>,
    /// The zone's SOA.
    pub soa: SoaPolicy,
    /// Instances with a warning are left out.
    pub only_passing: bool,
    /// Set TC when answers were left out because of their number or size.
    pub enable_truncate: bool,
    /// Most answers over UDP to a client without EDNS.
    pub udp_answer_limit: usize,
    /// Most A, AAAA and CNAME answers over any transport; 0 for no limit.
    pub a_record_limit: usize,
    /// Node metadata as additional TXT records.
    pub node_meta_txt: bool,
    /// Write every name in full.
    pub disable_compression: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            node_ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            soa: SoaPolicy::default(),
            only_passing: false,
            enable_truncate: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            node_meta_txt: true,
            disable_compression: false,
        }
    }
}

impl Policy {
    /// TTL in seconds of the records of a service.
    pub(super) fn ttl_of_service(&self, service: &str) -> u32 {
        let exact = self.service_ttl.iter().find(|(name, _)| name.eq_ignore_ascii_case(service));
        let ttl = exact.map(|(_, ttl)| *ttl).or_else(|| {
            let prefixes =
                self.service_ttl.iter().filter_map(|(name, ttl)| Some((name.strip_suffix('*')?, ttl)));
            prefixes
                .filter(|(prefix, _)| {
                    service.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                })
                .max_by_key(|(prefix, _)| prefix.len())
                .map(|(_, ttl)| *ttl)
        });
        seconds(ttl.unwrap_or_default())
    }
}

/// A duration as the whole seconds of a TTL.
pub(super) fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

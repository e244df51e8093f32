//! What `make fuzz` calls with any bytes: one function for each thing that comes from outside or from a disk.
//!
//! Each must return, whatever the bytes; a panic is a finding. Most also check what must hold for every input. The
//! same functions run in the library's tests, on damaged copies of the seeds. Not part of the program: built for
//! tests, and with the feature `fuzz` for the package in `fuzz/`.

mod machines;
#[cfg(test)]
mod mutate;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
mod texts;

pub(crate) use texts::filter_text;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name; each has a program in `fuzz/targets/` and seeds in `fuzz/seeds/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("claims", machines::claims),
    ("config_file", texts::config_file),
    ("config_hcl", texts::config_hcl),
    ("dns_message", crate::agent::dns::fuzz::message),
    ("etcd_v2", machines::etcd_v2),
    ("fleet", texts::fleet),
    ("gossip", machines::gossip),
    ("gossip_birth", machines::gossip_birth),
    ("http_body", texts::http_body),
    ("http_query", crate::agent::http::fuzz::query),
    ("log_segment", crate::agent::consensus::fuzz::log_segment),
    ("rpc_frames", crate::agent::rpc::fuzz::frames),
    ("rpc_messages", crate::agent::consensus::fuzz::messages),
    ("snapshot", crate::agent::consensus::fuzz::snapshot),
    ("user_data", texts::user_data),
];

/// Runs the target of that name.
///
/// # Panics
/// When there is none, and when the target has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(bytes);
}

/// The next part of an input that holds several, each behind its length (two bytes, big endian).
pub(crate) fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let ([high, low], after) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
    let (part, after) = after.split_at(length);
    *rest = after;
    Some(part)
}

//! What DNS answers: from the catalog and a question to records, and from records to bytes.
//!
//! Pure: sockets, recursors and caches are in `agent::dns`. The grammar of names and the answers are Consul's.

mod answer;
mod limit;
mod name;
mod policy;
mod question;
mod record;
mod resolve;
#[cfg(test)]
mod tests;
pub mod wire;

pub use answer::{Answer, Outside, Rcode, View, answer};
pub use limit::{Transport, bytes_max, fit};
pub use name::{Name, NameError};
pub use policy::{Policy, SoaPolicy};
pub use question::{Question, Target, Zones};
pub use record::{Record, RecordData, RecordType, Soa};

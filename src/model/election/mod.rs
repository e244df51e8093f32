//! Birth: who may create a cluster. Decides and never acts: time, chance and what the store holds come in as values.
//!
//! * [`certificate`]: the birth certificate and its transitions freeze, bind, form, replace (and restore).
//! * [`birth`]: what one machine does next, given all it knows: the driver that `bootstrap` runs.
//! * [`gossip_birth`]: the same without etcd: servers that see each other agree on one certificate.
//! * [`record`]: what a machine remembers on disk, and the plan that its agent is started with.
//!
//! The rule behind it all (I1): a list of first servers either can still commit or is closed for ever, never both.

pub mod birth;
pub mod certificate;
pub mod claim;
pub mod gossip_birth;
pub mod record;
pub mod waiting;

#[cfg(test)]
mod tests;

pub use birth::{Action, Birth, Event, Machine, Refusal};
pub use certificate::{Certificate, InitialMember};
pub use claim::{Claim, ClaimDetails, ClusterTag, Incarnation, Revision, View};

pub use gossip_birth::{BirthRecord, BirthReply, BirthRequest, GossipBirth, SeenServer};
pub use record::{LocalState, Plan, Record, Role};
pub use waiting::Waiting;

//! What containers offer, and what must change at the agent so that it knows.
//!
//! Pure: `registrator/` asks Docker and the agent, and carries out the commands. Names, ids and `SERVICE_*` keys
//! follow gliderlabs/registrator, because people's labels already do; where we differ on purpose, the rule says so:
//!
//! * tags keep the order in which they were written ([`Compat::tags_reversed`] gives the original's);
//! * `SERVICE_IGNORE=false` does not ignore;
//! * an address that nobody else can reach is refused with a reason, never registered;
//! * a port published from a user-defined network is reached at the machine, as on the default bridge
//!   ([`Compat::network_address`] gives the original's: the container's address with the machine's port);
//! * `check_*` keys stay out of the metadata.

pub mod checks;
pub mod diff;
pub mod facts;
pub mod metadata;
pub mod naming;
pub mod service;

pub use diff::{Command, Ownership, Registered, RegisteredCheck, RegisteredService, diff};
pub use facts::{Binding, Facts, Health, NetworkMode, Port, Protocol, State};
pub use naming::{Compat, Reading, Remark, Rules, read};
pub use service::{Service, Wanted};

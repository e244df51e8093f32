//! What fleet over SSH decides and computes: which machines are meant, what `[X-Fleet]` asks for, where a unit goes,
//! what the tables look like, which host keys are known. `crate::fleet` carries it out.

pub mod formation;
pub mod key_file;
pub mod known_hosts;
pub mod machines;
pub mod networks;
pub mod placement;
pub mod requirements;
pub mod schedule;
pub mod shell;
pub mod survey;
pub mod tables;

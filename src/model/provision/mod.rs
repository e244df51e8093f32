//! What a blank machine is given: user-data, unit files, the docker line. Every output is a pure function of a [`Spec`].
//!
//! The same spec gives the same bytes, always and for every machine; what differs between machines is looked up
//! by the machine itself. Nothing here writes a file: `cli` does.

pub mod binary;
pub mod cloud_config;
pub mod docker_run;
pub mod etcd;
pub mod lint;
pub mod render;
pub mod resolved;
pub mod shell;
pub mod spec;
pub mod units;

pub use spec::{Spec, SpecError};

//! What a blank machine is given: user-data, unit files, the docker line. Every output is a pure function of a [`Spec`].
//!
//! The same spec gives the same bytes, always and for every machine; what differs between machines is looked up
//! by the machine itself. Nothing here writes a file: `cli` does.

pub mod binary;
pub mod butane;
pub mod cloud_config;
pub mod cloud_init;
pub mod compose;
pub mod diff;
pub mod docker_run;
pub mod draft;
pub mod endpoint;
pub mod etcd;
pub mod explain;
pub mod format;
pub mod ignition;
pub mod lint;
pub mod render;
pub mod resolved;
pub mod served;
pub mod shell;
pub mod spec;
pub mod spec_file;
pub mod sysext;
pub mod units;
pub mod vagrant;
mod yaml;

pub use spec::{Spec, SpecError};

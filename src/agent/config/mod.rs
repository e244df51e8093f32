//! The agent's configuration in three stages: fragments (flags, files: everything optional), one merged fragment,
//! settings (checked: every later function takes values that cannot be wrong).

mod addresses;
mod definition;
mod dialect;
mod file;
mod fragment;
mod reloadable;
mod servers;
mod settings;
mod source;
#[cfg(test)]
mod tests;

pub use definition::Definition;
pub use dialect::Dialect;
pub use file::{parse_file, read_paths};
pub use fragment::Fragment;
pub use settings::{DnsTtl, HttpAddress, Ports, Settings, Soa};
pub use source::Source;

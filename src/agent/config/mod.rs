//! The agent's configuration in three stages: fragments (flags, files: everything optional), one merged fragment,
//! settings (checked: every later function takes values that cannot be wrong).

mod file;
mod fragment;
mod servers;
mod settings;
#[cfg(test)]
mod tests;

pub use file::{parse_file, read_paths};
pub use fragment::Fragment;
pub use settings::{DnsTtl, HttpAddress, Ports, Settings, Soa};

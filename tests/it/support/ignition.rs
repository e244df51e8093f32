//! The real Ignition, as a machine runs it in its initramfs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

/// Debian's Ignition has no program in PATH for it.
const IGNITION: &str = "/usr/lib/dracut/modules.d/30ignition/ignition";

/// Applies a config to an empty folder inside `work` and gives that folder.
#[track_caller]
pub(crate) fn apply(work: &Path, config: &str) -> PathBuf {
    let put = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
    };
    let (root, tools, config_path) = (work.join("root"), work.join("bin"), work.join("config.ign"));
    put(root.join("etc/selinux/config"), "SELINUXTYPE=none\n");
    put(config_path.clone(), config);
    // The last step labels files for SELinux; a root without it has nothing to label.
    put(tools.join("setfiles"), "#!/bin/sh\ncat >/dev/null\n");
    fs::set_permissions(tools.join("setfiles"), fs::Permissions::from_mode(0o755)).unwrap();
    for stage in ["fetch", "files"] {
        let output = Command::new(IGNITION)
            .args(["--platform", "file", "--log-to-stdout", "--stage", stage, "--root"])
            .arg(&root)
            .arg("--config-cache")
            .arg(work.join("cache.json"))
            .arg("--state-file")
            .arg(work.join("state"))
            .env("IGNITION_CONFIG_FILE", &config_path)
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display()))
            .output()
            .unwrap_or_else(|error| panic!("{IGNITION}, of Debian's package ignition: {error}"));
        assert!(output.status.success(), "{stage}: {}", String::from_utf8_lossy(&output.stdout));
    }
    root
}

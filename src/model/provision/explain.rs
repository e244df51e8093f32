//! Comments for those who want to know why a line of the output is there.
//!
//! All forms but JSON have `#` comments, so one table serves them: a comment goes above the lines that begin as it says.

/// How a line begins, behind blanks and list dashes; and why it is there.
const REASONS: &[(&str, &str)] = &[
    // Units.
    (
        "Wants=network-online.target",
        "wanted, not required: the agent itself waits for the network and for the others",
    ),
    (
        "Wants=docker.service corediscover-agent.service",
        "wanted, not required: the registrator waits for Docker and for the agent, and outlives both",
    ),
    (
        "Wants=docker.service",
        "wanted, not required: without Docker a machine goes on with the binary that it has",
    ),
    ("Requires=corediscover-install.service", "the binary is there before anything needs it"),
    ("After=", "an order for those that are there; the others do not matter"),
    ("Before=docker.service", "Docker's settings outlive a boot, and the address that they name does not"),
    (
        "ConditionFileIsExecutable=",
        "at the first boot the binary may come later, and Docker knows nothing yet",
    ),
    ("AssertFileIsExecutable=", "a missing binary is a failure with a name, not a restart for ever"),
    ("StartLimitIntervalSec=", "no limit: a machine that waits long for the others must not give up"),
    ("Type=notify", "started means ready: what comes after this unit finds an agent that answers"),
    ("TimeoutStartSec=0", "the first machine may wait for the others as long as it takes"),
    ("TimeoutStopSec=", "time to leave the cluster before it is killed"),
    (
        "EnvironmentFile=/etc/environment",
        "holds this machine's address, under a name that is the same on all machines",
    ),
    (
        "ExecStartPre=/bin/sh -c 'test -n",
        "an empty address would make a cluster that nobody reaches: better no start",
    ),
    (
        "ExecStart=-",
        "for containers; without Docker, or with an old resolver, the machine's own names still work",
    ),
    (
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN",
        "for a link of its own, and for a network to ask from as containers do: a firewall may keep the answer from them",
    ),
    ("CapabilityBoundingSet=CAP_NET_ADMIN", "the one right of root that is needed: a link of its own"),
    ("ConfigurationDirectory=docker", "the other place: Docker's settings name the server for containers"),
    ("ExecStopPost=-", "what this unit made, it removes"),
    (
        "ExecStart=/bin/sh -c 'pause=",
        "tried until it works, at every boot: the first one may be without a network, or somebody else holds apt's lock",
    ),
    (
        "ExecStart=/bin/sh -c 'cd",
        "tried with longer and longer pauses, put in place in one step; a machine that has a binary goes on with it in the end",
    ),
    ("ExecStart=", "the same on every machine; what differs, the machine looks up itself"),
    ("ExecReload=", "systemctl reload reads the configuration files again"),
    ("Restart=on-failure", "a crash is repaired by a restart; a clean stop stays one"),
    ("Restart=always", "it has no reason to end, so an end is a failure"),
    ("RuntimeDirectory=", "readable for this unit alone, and gone when it stops"),
    ("ExecStartPre=+", "as root: the unit's own user could not read the files for etcd's encryption"),
    ("LimitNOFILE=", "one file for each connection; 1024 are few for an agent"),
    ("DynamicUser=yes", "no root: a user of its own that exists while the unit runs"),
    ("StateDirectory=", "/var/lib/corediscover: the log, the replica and who this machine is"),
    ("StateDirectoryMode=", "the log holds the values of all keys"),
    ("AmbientCapabilities=", "the one right of root that is needed: DNS on port 53"),
    ("SupplementaryGroups=docker", "the right to ask Docker"),
    ("NoNewPrivileges=yes", "from here on: nothing that the program does not do is possible"),
    ("ProtectSystem=strict", "the file system is read-only, but for what is named"),
    ("ReadWritePaths=", "the one place that is written to"),
    ("PartOf=", "stops and starts with the agent: no resolver asks an agent that is gone"),
    ("ConditionPathIsDirectory=", "machines without systemd-resolved go on without this unit"),
    ("RemainAfterExit=yes", "done stays done until it is stopped"),
    ("Global=true", "a copy on every machine that is there or comes"),
    ("WantedBy=", "started at every boot"),
    ("Upholds=", "units of an extension cannot be enabled: the target starts them, and again when they end"),
    // cloud-config.
    ("etcd2:", "the machines meet in an etcd of their own"),
    ("discovery:", "the etcd members find each other here, once"),
    ("advertise_client_urls:", "replaced by this machine's address before the file is read"),
    ("fleet:", "units for all machines can be given to any one of them"),
    ("drop_ins:", "added to the unit that the system has"),
    ("command: \"start\"", "at every boot"),
    // cloud-init.
    ("write_files:", "before any command runs"),
    ("permissions:", "quoted: a bare number is read as octal by some and as decimal by others"),
    ("runcmd:", "once in the life of the machine; what has to happen at every boot is in the units"),
    ("\"--no-block\"", "the agent waits for the other machines, and the boot must not wait for it"),
    // Butane.
    ("variant:", "which system this is for"),
    ("overwrite:", "an image that has the file already is no obstacle"),
    ("mode:", "octal 0755 in decimal, which all versions of YAML read alike"),
    ("hash:", "a download that is not exactly this is not used"),
    ("enabled:", "started at every boot"),
    // compose.
    ("network_mode:", "the addresses of the cluster are those of the machines"),
    ("restart: \"always\"", "after a crash and after a boot"),
    ("stop_grace_period:", "time to leave the cluster before it is killed"),
    ("read_only:", "the container writes to its volume alone"),
    ("cap_drop:", "no right of root"),
    ("cap_add:", "but DNS on port 53"),
    ("- \"corediscover:/data\"", "the log, the replica and who this machine is outlive the container"),
    ("- \"/etc/machine-id:", "who this machine is, for the election"),
    ("- \"/var/run/docker.sock:", "the right to ask Docker"),
    // Vagrant.
    (
        "machine.vm.network",
        "the address that the other machines are told; the first network of a box is the same on all",
    ),
    ("machine.vm.provision \"shell\"", "the same script on all machines"),
];

/// `text` with a comment above each line that the table knows: once for each beginning, where it first stands.
pub fn explain(text: &str) -> String {
    let mut told = [false; REASONS.len()];
    let mut result = String::with_capacity(text.len() * 2);
    let mut continues = false;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = &line[..line.len() - content.len()];
        let bare = content.trim_start_matches("- ");
        let reason =
            REASONS.iter().position(|(start, _)| content.starts_with(start) || bare.starts_with(start));
        // A comment inside a continued line would end it for fleet.
        if let Some(position) = reason.filter(|_| !continues)
            && !std::mem::replace(&mut told[position], true)
        {
            result.push_str(indent);
            result.push_str("# ");
            result.push_str(REASONS[position].1);
            result.push('\n');
        }
        result.push_str(line);
        result.push('\n');
        continues = line.ends_with('\\');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{REASONS, explain};
    use crate::model::provision::Spec;
    use crate::model::provision::etcd::{Etcd, TlsFiles};
    use crate::model::provision::format::Format;
    use crate::model::provision::units::{Manager, unit_files};

    #[test]
    fn a_reason_stands_above_its_line_once_and_never_inside_a_continued_one() {
        assert_eq!(
            explain("[Service]\n  Type=notify\nType=notify\nExecStart=a \\\nmode: 1\n"),
            "[Service]\n  # started means ready: what comes after this unit finds an agent that answers\n  Type=notify\n\
             Type=notify\n# the same on every machine; what differs, the machine looks up itself\nExecStart=a \\\nmode: 1\n"
        );
    }

    #[test]
    fn every_reason_is_for_a_line_that_is_written() {
        let digest = "0".repeat(128);
        let download = format!("url=https://a.example/b,sha512={digest}").parse().unwrap();
        let mut texts = Vec::new();
        let files = TlsFiles { ca: Some("/etc/ca.pem".parse().unwrap()), ..TlsFiles::default() };
        let encrypted = Etcd::new(vec!["https://a".parse().unwrap()], None, vec![], files).unwrap();
        let local = Etcd::Local { discovery: None };
        let image = "image=a/b:1".parse().unwrap();
        for (binary, etcd) in [(Spec::default().binary, encrypted), (download, local.clone()), (image, local)]
        {
            let spec = Spec { etcd, binary, ..Spec::default() };
            for format in Format::ALL {
                texts.extend(format.files(&spec).unwrap().into_iter().map(|file| file.text));
            }
            texts.extend(unit_files(&spec, Manager::Fleet).unwrap().into_iter().map(|file| file.text));
        }
        let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).map(str::trim_start).collect();
        for (start, _) in REASONS {
            let is_there =
                |line: &&&str| line.starts_with(start) || line.trim_start_matches("- ").starts_with(start);
            assert!(lines.iter().any(|line| is_there(&line)), "{start}");
        }
    }
}

//! The options that all provisioning commands share: the same words as in a spec file, and how both become a [`Spec`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{EXIT_FINE, Output, Usage};
use crate::hint::{WithHint as _, advise, fault};
use crate::host::files::{self, MODE_PUBLIC};
use crate::model::names::Datacenter;
use crate::model::provision::binary::Binary;
use crate::model::provision::draft::Draft;
use crate::model::provision::etcd::{Endpoint, Etcd, MachineFile, Peer, TlsFiles};
use crate::model::provision::explain::explain;
use crate::model::provision::format::{Format, OutputFile};
use crate::model::provision::render::RenderError;
use crate::model::provision::spec::{AddressSource, DnsPort, Domain, NodeSource, Servers};
use crate::model::provision::{Spec, SpecError, spec_file};

/// What every machine of the cluster has in common, and what is done with it.
#[derive(clap::Args)]
pub(super) struct SpecArgs {
    /// How many machines become servers: the first that meet [default: 3].
    #[arg(long, value_name = "N")]
    servers: Option<Servers>,
    /// An etcd that is there already; without it, an etcd of each machine on 127.0.0.1:2379.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    etcd: Vec<Endpoint>,
    /// The file on the machines with the authority that signed etcd's certificate (PEM); needed for https.
    #[arg(long, value_name = "PATH")]
    etcd_ca: Option<MachineFile>,
    /// The file on the machines with their certificate for etcd (PEM).
    #[arg(long, value_name = "PATH")]
    etcd_cert: Option<MachineFile>,
    /// The file on the machines with the key of that certificate (PEM).
    #[arg(long, value_name = "PATH")]
    etcd_key: Option<MachineFile>,
    /// No etcd: machines meet by gossip at these addresses. The first of them, as many as --servers, are the servers; all
    /// other machines are clients.
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', conflicts_with = "etcd")]
    join: Vec<Peer>,
    /// How machines get the binary: `url=URL,sha512=DIGEST`, `image=NAME` or `path=/PATH`
    /// [default: path=/opt/bin/corediscover, for compose image=corediscover:latest].
    #[arg(long, value_name = "HOW")]
    binary: Option<Binary>,
    /// Name of the datacenter [default: dc1].
    #[arg(long, value_name = "NAME")]
    datacenter: Option<Datacenter>,
    /// The domain that DNS serves [default: consul].
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<Domain>,
    /// Which address machines tell each other: `private` or `public` of /etc/environment or the cloud's metadata, `auto`
    /// (private, else towards the default route), `interface:NAME`, or a template such as `{{ GetInterfaceIP "eth1" }}`
    /// [default: private for cloud-config, units and vagrant, else auto].
    #[arg(long, value_name = "SOURCE")]
    advertise: Option<AddressSource>,
    /// What machines are called: `hostname`, or `machine-id` where all host names are alike [default: hostname].
    #[arg(long, value_name = "SOURCE")]
    node: Option<NodeSource>,
    /// The agent's DNS port; 53 where systemd is older than 246 [default: 53 for cloud-config, 8600 for all others].
    #[arg(long, value_name = "PORT")]
    dns_port: Option<DnsPort>,
    /// Where HTTP and DNS listen, for example 127.0.0.1,172.17.0.1 so that containers can ask. Without it: loopback.
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    client: Vec<IpAddr>,
    /// A file with these settings, as --print-spec prints it; flags win over it.
    #[arg(long, value_name = "FILE")]
    spec_file: Option<PathBuf>,
    /// Print the settings that would be used, as a file with explanations, and nothing else.
    #[arg(long, conflicts_with = "explain")]
    print_spec: bool,
    /// Put a comment above the lines of the output: why they are there.
    #[arg(long)]
    explain: bool,
}

/// What a provisioning command was asked for.
pub(super) enum Request {
    /// The settings alone; they are printed already.
    Done,
    /// The output.
    Make(Made),
}

/// A spec, and how its output is to look.
pub(super) struct Made {
    /// The spec.
    pub(super) spec: Box<Spec>,
    explains: bool,
}

impl SpecArgs {
    /// Puts flags, `more` (flags of one command) and the file together; prints the result if that is what is asked for.
    pub(super) fn request(self, format: Format, more: Draft, output: &mut Output) -> anyhow::Result<Request> {
        let (print_spec, explains) = (self.print_spec, self.explain);
        let spec = self.into_spec(format, more).map_err(|error| match error.downcast_ref::<SpecError>() {
            Some(fault) => {
                let advice = match fault {
                    SpecError::Tls(fault) => fault.advice().to_owned(),
                    _ => format!("see `corediscover {} --help`", format.name()),
                };
                advise(error, advice).context(Usage("these options do not fit together"))
            }
            None => error,
        })?;
        if print_spec {
            output.data(&spec_file::print(&spec, format)?)?;
            return Ok(Request::Done);
        }
        Ok(Request::Make(Made { spec: Box::new(spec), explains }))
    }

    fn into_spec(self, format: Format, more: Draft) -> anyhow::Result<Spec> {
        let (flags, file) = self.drafts(more)?;
        format.check_flags(&flags)?;
        Ok(flags.over(file).into_spec(format)?)
    }

    /// What flags and file say together, for several formats, and whether it is to be explained; `None` when the settings
    /// themselves were asked for.
    pub(super) fn into_draft(self) -> anyhow::Result<Option<(Draft, bool)>> {
        if self.print_spec {
            return Ok(None);
        }
        let explains = self.explain;
        let (flags, file) = self.drafts(Draft::default())?;
        Ok(Some((flags.over(file), explains)))
    }

    /// The flags, with `more` of one command; and the file.
    fn drafts(self, more: Draft) -> anyhow::Result<(Draft, Draft)> {
        let file = match &self.spec_file {
            Some(path) => read_spec_file(path)?,
            None => Draft::default(),
        };
        let flags = Draft {
            servers: self.servers,
            etcd: self.etcd,
            etcd_files: TlsFiles { ca: self.etcd_ca, cert: self.etcd_cert, key: self.etcd_key },
            join: self.join,
            binary: self.binary,
            datacenter: self.datacenter,
            domain: self.domain,
            advertise: self.advertise,
            node: self.node,
            dns_port: self.dns_port,
            client: self.client,
            ..more
        };
        Ok((flags, file))
    }
}

impl Made {
    /// A text of the output, with explanations if they are wanted.
    pub(super) fn text(&self, text: String) -> String {
        if self.explains { explain(&text) } else { text }
    }

    /// Refuses `--explain` for JSON.
    pub(super) fn without_comments(&self) -> anyhow::Result<()> {
        if self.explains {
            let error = fault(
                "JSON has no comments",
                "`corediscover butane --explain` explains the same, or leave --explain out",
            );
            return Err(error.context(Usage("this output cannot be explained")));
        }
        Ok(())
    }

    /// Says on stderr what a machine of this kind must bring with it.
    pub(super) fn note_etcd(&self, output: &mut Output) {
        if matches!(self.spec.etcd, Etcd::Local { .. }) {
            output.note(
                "note: the machines look for an etcd of their own on 127.0.0.1:2379, which this output does not install; \
                 --etcd URL names another one, --join ADDRESS,… needs none",
            );
        }
    }
}

/// Reads a spec file; the error names file, line and column.
pub(super) fn read_spec_file(path: &Path) -> anyhow::Result<Draft> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint("--print-spec prints a spec file to begin with")?;
    spec_file::read(&text)
        .with_context(|| format!("{} is not a spec file", path.display()))
        .hint("--print-spec prints a spec file with an explanation of each setting")
}

/// Runs a command whose output is one text without settings of its own.
pub(super) fn print(
    args: SpecArgs,
    format: Format,
    output: &mut Output,
    make: impl FnOnce(&Spec) -> Result<String, RenderError>,
) -> anyhow::Result<u8> {
    if let Request::Make(made) = args.request(format, Draft::default(), output)? {
        let text = make(&made.spec)?;
        output.data(&made.text(text))?;
        made.note_etcd(output);
    }
    Ok(EXIT_FINE)
}

/// Writes files into a folder, which is made if need be, and prints their paths.
pub(super) fn write_files(
    folder: &Path,
    made: &Made,
    files: Vec<OutputFile>,
    output: &mut Output,
) -> anyhow::Result<()> {
    for file in files {
        let path = folder.join(&file.path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create the folder {}", parent.display()))
            .hint("choose another folder with --out")?;
        files::write_atomic(&path, made.text(file.text).as_bytes(), MODE_PUBLIC)?;
        output.data(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

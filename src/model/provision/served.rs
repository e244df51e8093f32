//! What `serve-provision` gives to booting machines beside the binary: the user-data of every form that a machine can fetch,
//! and a page that says what to type.

use super::binary::Binary;
use super::draft::Draft;
use super::format::Format;
use super::render::RenderError;
use super::spec::{NodeSource, SpecError};
use super::{butane, cloud_config, cloud_init, explain, ignition, units};

/// Where the binary is; with `/` and its sha512 behind it, this one and no other.
pub const BINARY_PATH: &str = "/corediscover";
/// Where its digest is, as `sha512sum -c` reads it.
pub const DIGEST_PATH: &str = "/corediscover.sha512";
/// Who a machine is for cloud-init, which runs again when this changes: it never does.
const META_DATA: &str = "instance-id: corediscover\n";

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its path on the server.
    pub path: String,
    /// What it is, as HTTP says it.
    pub content_type: &'static str,
    /// The text; or why these settings cannot be said in this form.
    pub text: Result<String, SpecError>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const YAML: &str = "text/yaml; charset=utf-8";

/// All texts for the settings of `draft`, in which machines get the binary as `binary` says unless the draft says it itself.
///
/// # Errors
/// Never for a template of this program.
pub fn documents(draft: &Draft, binary: &Binary, explained: bool) -> Result<Vec<Document>, RenderError> {
    let mut documents = Vec::new();
    for format in [Format::CloudConfig, Format::CloudInit, Format::Ignition, Format::Butane, Format::Units] {
        let draft =
            Draft { binary: Some(draft.binary.clone().unwrap_or_else(|| binary.clone())), ..draft.clone() };
        let spec = draft.into_spec(format);
        let text = |text: String| if explained { explain::explain(&text) } else { text };
        let one = |path: &str, content_type, made: Result<String, SpecError>| Document {
            path: path.to_owned(),
            content_type,
            text: made,
        };
        let spec = match spec {
            Ok(spec) => spec,
            Err(error) => {
                documents.push(one(path_of(format), TEXT, Err(error)));
                continue;
            }
        };
        match format {
            Format::CloudConfig => {
                documents.push(one(path_of(format), YAML, Ok(text(cloud_config::cloud_config(&spec)?))));
            }
            Format::CloudInit => {
                documents.push(one(path_of(format), YAML, Ok(text(cloud_init::cloud_init(&spec)?))));
                documents.push(one("/cloud-init/meta-data", YAML, Ok(META_DATA.to_owned())));
                documents.push(one("/cloud-init/vendor-data", YAML, Ok(String::new())));
            }
            Format::Ignition => {
                let made = ignition::ignition(&spec, ignition::Version::default())?;
                documents.push(one(path_of(format), "application/vnd.coreos.ignition+json", Ok(made)));
            }
            Format::Butane => {
                let made = butane::butane(&spec, butane::Variant::default())?;
                documents.push(one(path_of(format), YAML, Ok(text(made))));
            }
            _ => {
                for file in units::unit_files(&spec, units::Manager::Systemd)? {
                    let path = format!("{}{}", path_of(format), file.name);
                    documents.push(one(&path, TEXT, Ok(text(file.text))));
                }
            }
        }
    }
    Ok(documents)
}

fn path_of(format: Format) -> &'static str {
    match format {
        Format::CloudConfig => "/cloud-config",
        Format::CloudInit => "/cloud-init/user-data",
        Format::Ignition => "/ignition",
        Format::Butane => "/butane",
        _ => "/units/",
    }
}

/// What to do where machines have no names of their own.
const NAMES: &str = "Machines are called by their host names. Where DHCP gives none, all are `localhost` or `ubuntu`, and cannot \
meet:\n  serve with --node machine-id";

/// The page at `/`: what is there, with the line to type on the machine. `base` is the server's URL without a final slash.
pub fn index(base: &str, documents: &[Document], digest: &str, names: NodeSource) -> String {
    let is_there =
        |path: &str| documents.iter().any(|document| document.path == path && document.text.is_ok());
    let mut lines = vec![
        "corediscover serves this to booting machines.".to_owned(),
        String::new(),
        format!("The binary, sha512 {digest}:"),
        format!(
            "  curl -fsSLO {base}{BINARY_PATH} && curl -fsSL {base}{DIGEST_PATH} | sha512sum -c && chmod 0755 corediscover"
        ),
    ];
    if names == NodeSource::Hostname {
        lines.extend([String::new(), NAMES.to_owned()]);
    }
    let ways = [
        (
            "Debian, Ubuntu: cloud-init, by the kernel's command line or as the machine's SMBIOS serial number",
            "/cloud-init/user-data",
            format!("ds=nocloud;s={base}/cloud-init/"),
        ),
        (
            "Flatcar, by the kernel's command line",
            "/ignition",
            format!("flatcar.first_boot=1 ignition.config.url={base}/ignition"),
        ),
        (
            "Fedora CoreOS, when it is installed",
            "/ignition",
            format!("coreos-installer install /dev/sda --insecure-ignition --ignition-url {base}/ignition"),
        ),
        (
            "CoreOS, by the kernel's command line",
            "/cloud-config",
            format!("cloud-config-url={base}/cloud-config"),
        ),
        ("Butane, to be merged with what you have", "/butane", format!("curl -fsSL {base}/butane")),
    ];
    for (title, path, line) in ways {
        if is_there(path) {
            lines.extend([String::new(), format!("{title}:"), format!("  {line}")]);
        }
    }
    let units: Vec<&str> = documents
        .iter()
        .filter(|document| document.text.is_ok())
        .filter_map(|document| document.path.strip_prefix("/units/"))
        .collect();
    if !units.is_empty() {
        lines.extend([String::new(), "Any systemd with Docker, as root:".to_owned()]);
        lines.extend(
            units
                .iter()
                .map(|name| format!("  curl -fsSL -o /etc/systemd/system/{name} {base}/units/{name}")),
        );
        lines.push(format!(
            "  systemctl daemon-reload && systemctl enable --now --no-block {}",
            units.join(" ")
        ));
    }
    lines.extend([String::new(), "All paths:".to_owned()]);
    lines.extend([BINARY_PATH, DIGEST_PATH].map(|path| format!("  {path}")));
    lines.push(format!("  {BINARY_PATH}/{digest}"));
    lines.extend(documents.iter().map(|document| match &document.text {
        Ok(_) => format!("  {}", document.path),
        Err(error) => format!("  {} is not there: {error}", document.path),
    }));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{NodeSource, documents, index};
    use crate::model::provision::draft::Draft;

    #[test]
    fn machines_are_told_to_fetch_the_served_binary_unless_the_settings_say_otherwise() {
        let binary =
            format!("url=http://10.0.0.1:8080/corediscover,sha512={}", "ab".repeat(64)).parse().unwrap();
        let all = documents(&Draft::default(), &binary, false).unwrap();
        let with_binary = all.iter().filter(|document| {
            document.text.as_ref().is_ok_and(|text| text.contains("http://10.0.0.1:8080/corediscover"))
        });
        let paths: Vec<&str> = with_binary.map(|document| document.path.as_str()).collect();
        let expected = [
            "/cloud-config",
            "/cloud-init/user-data",
            "/ignition",
            "/butane",
            "/units/corediscover-install.service",
        ];
        assert_eq!(paths, expected);
        let own = Draft { binary: Some("image=a/b:1".parse().unwrap()), ..Draft::default() };
        let all = documents(&own, &binary, false).unwrap();
        assert!(all.iter().all(|document| !document.text.as_ref().unwrap().contains("10.0.0.1:8080")));
    }

    #[test]
    fn a_form_that_cannot_say_the_settings_is_told_on_the_page_and_the_others_are_there() {
        let join = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|peer| peer.parse().unwrap()).to_vec();
        let draft = Draft { join, fleet: Some(true), ..Draft::default() };
        let all = documents(&draft, &"image=a".parse().unwrap(), false).unwrap();
        let page = index("http://a:1", &all, "ab", NodeSource::Hostname);
        assert!(page.contains("/cloud-config is not there: fleet needs etcd"), "{page}");
        assert!(page.contains("ds=nocloud;s=http://a:1/cloud-init/\n"), "{page}");
        assert!(!page.contains("cloud-config-url="), "{page}");
        assert!(page.contains("serve with --node machine-id\n"), "{page}");
        let page = index("http://a:1", &all, "ab", NodeSource::MachineId);
        assert!(!page.contains("--node"), "{page}");
    }
}

//! What this machine knows about its addresses, for `model::address` to choose from.

mod kernel;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::Context as _;

use crate::hint::fault;
use crate::model::address::variables::{self, FILE_BYTES_MAX, Variable};
use crate::model::address::{AddressSource, Choice, Facts, Refusal, choose};

/// Files that say addresses, in the order in which they are believed: coreos-cloudinit's, then what coreos-metadata writes on
/// old CoreOS and on Flatcar, then Afterburn's.
const FILES: [&str; 4] =
    ["/etc/environment", "/run/metadata/coreos", "/run/metadata/flatcar", "/run/metadata/afterburn"];

/// Reads everything, now.
///
/// # Errors
/// When the kernel does not list its interfaces, or a file that is there cannot be read.
pub fn facts() -> anyhow::Result<Facts> {
    let files = FILES.map(|path| Ok((path.to_owned(), read(Path::new(path))?)));
    Ok(Facts {
        addresses: kernel::addresses()?,
        default_interface: kernel::default_interface()?,
        // TEST-NET-1 (RFC 5737) and the documentation block (RFC 3849): never routed anywhere real.
        default_v4: toward(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        default_v6: toward(
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
        inner_bridges: kernel::inner_bridges(),
        files: files.into_iter().collect::<anyhow::Result<_>>()?,
    })
}

/// The address that this machine tells the others.
///
/// # Errors
/// Names every candidate and what speaks against it.
pub fn resolve(source: &AddressSource) -> anyhow::Result<Choice> {
    choose(source, &facts()?).map_err(refused)
}

/// A refusal as an error with advice.
pub fn refused(refusal: Refusal) -> anyhow::Error {
    fault(&refusal, &refusal.advice)
}

/// The assignments of a file; `None` when it is not there.
fn read(path: &Path) -> anyhow::Result<Option<Vec<Variable>>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(variables::parse(&String::from_utf8_lossy(&bytes)))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The address that the kernel would use towards `far`; `None` where no route leads there.
///
/// No packet is sent: a UDP socket is only connected, which makes the kernel choose the source address.
fn toward(any: IpAddr, far: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::{facts, read};
    use crate::host::files::{MODE_PUBLIC, write_atomic};

    #[test]
    fn this_machine_has_a_loopback_address() {
        let facts = facts().unwrap();
        let loopback = facts.addresses.iter().find(|entry| entry.address.is_loopback()).unwrap();
        assert!(loopback.flags.loopback && loopback.flags.up && loopback.prefix == 8, "{loopback:?}");
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_and_one_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("environment");
        assert_eq!(read(&path).unwrap(), None);
        write_atomic(&path, b"A=1\n", MODE_PUBLIC).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len(), 1);
        assert_eq!(read(&path.join("below")).unwrap(), None);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }
}

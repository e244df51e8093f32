//! Docker's sockets as this machine shows them: the file and its group, and who answers at a port.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::model::doctor::docker::Socket;

/// How long a listener of this machine may take for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// As much of an answer as tells who gives it, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// What Docker says in the head of every answer.
const DOCKERS_WORDS: [&str; 2] = ["\r\napi-version:", "\r\nserver: docker"];

/// The socket's file, if it is there.
///
/// # Errors
/// When it is there and cannot be looked at.
pub fn file(path: &str) -> anyhow::Result<Option<Socket>> {
    let found = match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => found,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {path}")),
    };
    let groups = std::fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let number = found.gid().to_string();
    let group = group_name(&groups, &number).unwrap_or(number);
    Ok(Some(Socket { path: path.to_owned(), mode: found.mode() & 0o7777, group }))
}

/// The name of a group in the text of `/etc/group`: `docker:x:999:core`.
fn group_name(groups: &str, number: &str) -> Option<String> {
    let lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.filter(|fields| fields.get(2) == Some(&number)).map(|fields| fields[0].to_owned()).next()
}

/// Whether this user may talk to the socket.
///
/// # Errors
/// When nobody listens there.
pub fn may_talk(path: &Path) -> anyhow::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", path.display())),
    }
}

/// A listener at all addresses is reached by loopback; one of IPv6 may be there for IPv4 alone.
fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let to = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, at.port()), ANSWER_WAIT);
    match at.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => to(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(v6) if v6.is_unspecified() => {
            to(Ipv6Addr::LOCALHOST.into()).or_else(|_| to(Ipv4Addr::LOCALHOST.into()))
        }
        ip => to(ip),
    }
}

/// Whether Docker's API answers at a listener of this machine, without TLS.
///
/// # Errors
/// When there is no answer.
pub fn answers_without_tls(at: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = connect(at)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let mut length = 0;
    // What comes in time counts: a listener that keeps the connection open has said who it is.
    while length < answer.len() {
        match stream.read(&mut answer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) if length > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    let head = String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase();
    Ok(head.starts_with("http/") && DOCKERS_WORDS.iter().any(|words| head.contains(words)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::{answers_without_tls, file, group_name, may_talk};

    fn answering(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 64];
            assert!(stream.read(&mut question).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let said = answers_without_tls(at).unwrap();
        server.join().unwrap();
        said
    }

    #[test]
    fn docker_is_known_by_what_it_says_in_the_head_of_its_answers() {
        assert!(answering("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/20.10\r\n\r\nOK"));
        assert!(!answering("HTTP/1.0 200 OK\r\nServer: nginx\r\n\r\nOK"));
        assert!(!answering(
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        ));
    }

    #[test]
    fn a_socket_is_seen_with_its_mode_and_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        assert_eq!(file(path.to_str().unwrap()).unwrap(), None);
        assert!(may_talk(&path).is_err());
        let _listener = UnixListener::bind(&path).unwrap();
        let found = file(path.to_str().unwrap()).unwrap().unwrap();
        assert!(found.mode & 0o600 == 0o600 && !found.group.is_empty(), "{found:?}");
        assert!(may_talk(&path).unwrap());
        assert_eq!(group_name("root:x:0:\ndocker:x:999:core\n", "999").unwrap(), "docker");
    }
}

//! The texts of check results, byte for byte as Consul writes them, and their limits.

use crate::model::catalog::Status;

/// Bytes of output that a check keeps unless its definition says otherwise (Consul's `check_output_max_size`).
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// What HTTP checks call themselves.
pub const USER_AGENT: &str = "Consul Health Check";
/// What HTTP checks accept unless their header fields say otherwise.
pub const ACCEPT: &str = "text/plain, text/*, */*";

/// Keeps the first `max` bytes of what a client reported, and says so.
pub fn cap_head(output: &str, max: usize) -> String {
    if output.len() <= max {
        return output.to_owned();
    }
    let kept = &output[..output.floor_char_boundary(max)];
    format!("{kept} ... (captured {max} of {} bytes)", output.len())
}

/// The last bytes of a stream of any length.
#[derive(Debug)]
pub struct Tail {
    max: usize,
    bytes: std::collections::VecDeque<u8>,
}

impl Tail {
    /// Keeps at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, bytes: std::collections::VecDeque::new() }
    }

    /// Takes the next part of the stream.
    pub fn push(&mut self, part: &[u8]) {
        let part = &part[part.len().saturating_sub(self.max)..];
        let surplus = (self.bytes.len() + part.len()).saturating_sub(self.max);
        self.bytes.drain(..surplus);
        self.bytes.extend(part);
    }

    /// What was kept, as text; bytes that are not UTF-8 are replaced.
    pub fn into_text(self) -> String {
        let bytes: Vec<u8> = self.bytes.into();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Why a probe got no answer, in the words of Go's `net` package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The name is unknown.
    NoSuchHost,
    /// There is no port in the address.
    MissingPort,
    /// Anything else, in the operating system's words.
    Other(String),
}

/// The output of a TCP check that connected.
pub fn tcp_success(address: &str) -> String {
    format!("TCP connect {address}: Success")
}

/// The output of a TCP check that failed.
pub fn tcp_failure(address: &str, failure: &Failure) -> String {
    dial_failure(address, failure)
}

/// The output of an HTTP check that got an answer; `status` is `200 OK`.
pub fn http_answer(method: &str, url: &str, status: &str, body: &str) -> String {
    format!("HTTP {method} {url}: {status} Output: {body}")
}

/// The output of an HTTP check without an answer; `address` is `host:port` of the URL.
pub fn http_failure(method: &str, url: &str, address: &str, failure: &Failure) -> String {
    let method = title_case(method);
    let reason = match failure {
        Failure::TimedOut => {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        }
        Failure::Other(reason) => reason.clone(),
        failure => dial_failure(address, failure),
    };
    format!("{method} \"{url}\": {reason}")
}

/// The status of an HTTP answer: 2xx passes, 429 (Too Many Requests) warns, all else is critical.
pub fn http_status(code: u16) -> Status {
    match code {
        200..=299 => Status::Passing,
        429 => Status::Warning,
        _ => Status::Critical,
    }
}

fn dial_failure(address: &str, failure: &Failure) -> String {
    match failure {
        Failure::Refused => format!("dial tcp {address}: connect: connection refused"),
        Failure::TimedOut => format!("dial tcp {address}: i/o timeout"),
        Failure::NoSuchHost => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            format!("dial tcp: lookup {host}: no such host")
        }
        Failure::MissingPort => format!("dial tcp: address {address}: missing port in address"),
        Failure::Other(reason) => format!("dial tcp {address}: {reason}"),
    }
}

/// Go writes the method of a failed request as `Get`, `Post`, ….
fn title_case(method: &str) -> String {
    let mut letters = method.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{Failure, Tail, cap_head, http_answer, http_failure, http_status, tcp_failure, tcp_success};
    use crate::model::catalog::Status;

    #[test]
    fn long_reports_keep_their_head_and_say_how_much_there_was() {
        assert_eq!(cap_head("short", 4096), "short");
        let want = format!("{} ... (captured 4096 of 5000 bytes)", "x".repeat(4096));
        assert_eq!(cap_head(&"x".repeat(5000), 4096), want);
        assert_eq!(cap_head("aé", 2), "a ... (captured 2 of 3 bytes)");
    }

    #[test]
    fn a_tail_keeps_the_last_bytes() {
        let mut tail = Tail::new(4);
        for part in ["ab", "cd", "e", "", "0123456789"] {
            tail.push(part.as_bytes());
        }
        tail.push(b"\xff");
        assert_eq!(tail.into_text(), "789\u{fffd}");
    }

    #[test]
    fn texts_are_those_of_consul() {
        assert_eq!(tcp_success("127.0.0.1:80"), "TCP connect 127.0.0.1:80: Success");
        let failures = [
            (Failure::Refused, "dial tcp h:1: connect: connection refused"),
            (Failure::TimedOut, "dial tcp h:1: i/o timeout"),
            (Failure::NoSuchHost, "dial tcp: lookup h: no such host"),
            (Failure::MissingPort, "dial tcp: address h:1: missing port in address"),
            (Failure::Other("odd".to_owned()), "dial tcp h:1: odd"),
        ];
        for (failure, want) in failures {
            assert_eq!(tcp_failure("h:1", &failure), want);
        }
        assert_eq!(
            http_answer("GET", "http://h/", "200 OK", "fine\n"),
            "HTTP GET http://h/: 200 OK Output: fine\n"
        );
        assert_eq!(
            http_failure("GET", "http://h:1/", "h:1", &Failure::Refused),
            "Get \"http://h:1/\": dial tcp h:1: connect: connection refused"
        );
        assert_eq!(
            http_failure("POST", "http://h:1/", "h:1", &Failure::TimedOut),
            "Post \"http://h:1/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        );
    }

    #[test]
    fn http_codes_become_statuses() {
        for (code, want) in [
            (200, Status::Passing),
            (299, Status::Passing),
            (302, Status::Critical),
            (429, Status::Warning),
            (503, Status::Critical),
        ] {
            assert_eq!(http_status(code), want, "{code}");
        }
    }
}

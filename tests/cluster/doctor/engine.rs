//! What goes wrong with Docker.

use super::breakages::write;
use super::{INSTALLED, is_found_and_repaired, is_found_by, is_healthy, sh};
use crate::machines::Machine;

/// Docker does not run, or the registrator may not ask it, or everybody may.
pub(super) fn docker(machine: &Machine) {
    sh(machine, "systemctl stop docker.socket docker.service");
    is_found_and_repaired(machine, "docker", "error", "the Docker daemon does not run");
    for (mode, symptom) in [
        ("0600", "the registrator may not use /var/run/docker.sock"),
        ("0666", "every user of this machine may use Docker through /var/run/docker.sock"),
    ] {
        sh(machine, &format!("chmod {mode} /var/run/docker.sock"));
        is_found_and_repaired(machine, "docker", "error", symptom);
    }
}

/// Docker's API is open: by its flags, and by a socket unit as CoreOS had it.
pub(super) fn open_docker(machine: &Machine) {
    write(machine, "/etc/default/docker", "DOCKER_OPTS=\"-H tcp://0.0.0.0:2375\"\n");
    sh(machine, "systemctl restart docker.service");
    is_found_and_repaired(machine, "docker-tcp", "error", "Docker's API is open at tcp://");
    sh(machine, "rm /etc/default/docker; systemctl restart docker.service");

    let unit = "[Socket]\nListenStream=2375\nBindIPv6Only=both\nService=docker.service\n";
    write(machine, "/etc/systemd/system/docker-tcp.socket", unit);
    sh(
        machine,
        "systemctl daemon-reload; systemctl stop docker.socket docker.service; systemctl start docker-tcp.socket; systemctl start docker.service",
    );
    is_found_and_repaired(machine, "docker-tcp", "error", "Docker's API is open at tcp://");
    sh(machine, "rm /etc/systemd/system/docker-tcp.socket; systemctl daemon-reload");
    is_healthy(machine);
}

/// Between an engine that is there and who asks it: it says that its API is that of Docker 1.11.
const OLD_DOCKER: &str = r#"
import http.client, http.server, re, socket, socketserver
class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")
class Older(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass
    def do_GET(self):
        engine = Engine("localhost")
        engine.request("GET", self.path)
        answer = engine.getresponse()
        body = re.sub(rb'"ApiVersion":"[0-9.]+"', b'"ApiVersion":"1.23"', answer.read())
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
socketserver.UnixStreamServer("/run/old-docker.sock", Older).serve_forever()
"#;

/// The engine is older than what the registrator reads.
pub(super) fn old_docker(machine: &Machine) {
    write(machine, "/root/old-docker.py", OLD_DOCKER);
    sh(machine, "systemd-run --unit old-docker python3 /root/old-docker.py");
    machine.until(&["ss", "-Hlx"], |text| text.contains("/run/old-docker.sock"));
    let line = ["env", "DOCKER_HOST=unix:///run/old-docker.sock", INSTALLED, "doctor", "--json"];
    let fix = is_found_by(machine, &line, "docker", "error", " speaks API 1.23, and 1.24 is needed");
    assert_eq!(fix, "apt-get install -y --only-upgrade docker.io");
    sh(machine, "systemctl stop old-docker.service; rm /root/old-docker.py /run/old-docker.sock");
    is_healthy(machine);
}

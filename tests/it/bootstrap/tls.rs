//! etcd that wants certificates, by both APIs.

use corediscover::bootstrap::version::Space;
use corediscover::bootstrap::{self, Api, CLAIM_TTL, ClaimStore as _, Tls};
use corediscover::hint;

use super::{PREFIX, details};
use crate::support::etcd::{Etcd, tls_file};
use crate::support::machine::{Machine, PATIENCE};
use crate::support::{corediscover, eventually};

fn tls(authority: &str, with_identity: bool) -> Tls {
    let read = |name: &str| std::fs::read(tls_file(name)).unwrap();
    let identity = with_identity.then(|| (read("client.pem"), read("client-key.pem")));
    Tls { authority: read(authority), identity }
}

fn open(etcd: &Etcd, tls: Tls, api: Api) -> bootstrap::Etcd {
    bootstrap::Etcd::new(vec![etcd.url()], PREFIX, Some(tls), CLAIM_TTL, api).unwrap()
}

#[tokio::test]
async fn machines_with_certificates_meet_in_an_etcd_that_wants_them() {
    for api in [Api::Auto, Api::Only(Space::V2)] {
        let etcd = Etcd::start_encrypted();
        let store = open(&etcd, tls("ca.pem", true), api);
        drop(store.watch().await.unwrap());
        assert!(store.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
        assert!(store.renew().await.unwrap());
        assert_eq!(store.snapshot().await.unwrap().claims.len(), 1);
    }
}

#[tokio::test]
async fn an_etcd_of_another_authority_and_a_missing_certificate_are_named() {
    let etcd = Etcd::start_encrypted();
    for space in [Space::V2, Space::V3] {
        for wrong in [tls("other-ca.pem", true), tls("ca.pem", false)] {
            let error = open(&etcd, wrong, Api::Only(space)).snapshot().await.unwrap_err();
            let report = hint::report(&error);
            assert!(report.contains(&etcd.url()), "{report}");
            assert!(report.contains("ertificate"), "{report}");
            assert!(report.contains("--etcd-ca") && report.contains("--etcd-cert"), "{report}");
        }
    }
}

#[test]
fn the_command_takes_the_certificates_from_files() {
    let etcd = Etcd::start_encrypted();
    let mut machine = Machine::bootstrap("one", &etcd.url(), 1);
    machine.insert_flags(&[
        "--etcd-ca",
        &tls_file("ca.pem"),
        "--etcd-cert",
        &tls_file("client.pem"),
        "--etcd-key",
        &tls_file("client-key.pem"),
    ]);
    let machine = machine.started();
    eventually(PATIENCE, "it leads", || machine.leader());
    assert_eq!(etcd.pairs("/consul.io/bootstrap/machines").len(), 1);

    // A file that is no certificate is an error at once, not something to wait for.
    let folder = tempfile::tempdir().unwrap();
    let output = corediscover()
        .args(["bootstrap", "--etcd", &etcd.url(), "--etcd-ca", "/etc/hostname", "--machine-id", "m1"])
        .args(["--advertise", "127.0.0.1", "--expect", "1", "--data-dir"])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("holds no certificate"), "{errors}");
}

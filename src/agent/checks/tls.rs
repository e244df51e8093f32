//! TLS of checks: certificates are verified against the machine's own, or not at all where a check says so.
//!
//! Made here rather than by the HTTP client, which refuses to start on a machine without certificates even when
//! all URLs are `http:`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::host::files::read_if_there;

/// Where distributions keep the certificates that they trust; the first that is there is used.
const CERTIFICATE_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusts what this machine trusts; without any certificates, nothing.
pub(super) fn verified() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for path in CERTIFICATE_FILES {
        let Some(bytes) = read_if_there(Path::new(path))? else { continue };
        let certificates = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
        let (_, ignored) = roots.add_parsable_certificates(certificates);
        if ignored > 0 {
            tracing::debug!("{ignored} certificates of {path} are not usable");
        }
        break;
    }
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate (`TLSSkipVerify`).
pub(super) fn unverified() -> anyhow::Result<ClientConfig> {
    let anything = Arc::new(Anything(Arc::new(ring::default_provider())));
    Ok(builder()?.dangerous().with_custom_certificate_verifier(anything).with_no_client_auth())
}

fn builder() -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("cannot prepare TLS for checks")
}

#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

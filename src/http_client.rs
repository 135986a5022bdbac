//! The process's one HTTP client: endpoint, webhooks and bucket share its connections.
//!
//! Owns how bytes travel (TLS, pool, redirects), not what they mean. Built once by the program (`main`) and handed to
//! [`crate::source::runpod`] and whoever else speaks HTTP; a clone is a reference count.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// Longest wait for a TCP (and TLS) connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the 60 s after which common load balancers drop an idle connection without a word.
const POOL_IDLE: Duration = Duration::from_secs(45);
/// Long polls sit silent for up to 90 s behind NATs.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why the client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The TLS library rejects its own settings.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The HTTP library does.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

/// A client without cookies, proxies (the SDK's endpoint traffic ignores them too) and redirects: a redirected POST
/// would become a GET and the result would be lost unnoticed, so a redirect is an answer like any other.
///
/// Certificates are loaded at the first `https` handshake, not here: reading a system's store costs milliseconds and
/// memory that a worker on plain `http` never needs, and a container without any store must still start.
///
/// # Errors
/// [`ClientError`]; only broken builds of the libraries meet it.
pub fn client() -> Result<Client, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LazyVerifier { provider, inner: OnceLock::new() }))
        .with_no_client_auth();
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .build()?)
}

/// The system's certificates, or Mozilla's where the system has none (slim containers), from the first handshake on.
#[derive(Debug)]
struct LazyVerifier {
    provider: Arc<CryptoProvider>,
    inner: OnceLock<Result<Verifier, rustls::Error>>,
}

impl LazyVerifier {
    fn verifier(&self) -> Result<&Verifier, rustls::Error> {
        let loaded = self.inner.get_or_init(|| {
            Verifier::new(self.provider.clone()).or_else(|error| {
                tracing::warn!(%error, "no system certificates; using the built-in list of public authorities");
                let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned();
                Verifier::new_with_extra_roots(roots, self.provider.clone())
            })
        });
        loaded.as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for LazyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

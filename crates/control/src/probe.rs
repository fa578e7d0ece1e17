//! One request through the edge, made by a short-lived process of its own.
//!
//! Control parses nothing that others wrote: this process does, as the edge's user where there is one, and
//! says what came in three fields. The certificate must be the very one that the edge was given, so that
//! nobody else on that port is taken for it. Invariant: an answer is cut at a mebibyte and at its time.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use seaworthy_base::Exit;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::platform::Platform;

/// The longest body that is looked at.
const BODY: usize = 1 << 20;

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Where the edge listens.
    pub address: SocketAddr,
    /// The chain that must be shown there, PEM; plain HTTP without one.
    pub certificate: Option<String>,
    /// For which host.
    pub host: String,
    /// With which method.
    pub method: String,
    /// For which path.
    pub path: String,
    /// With which headers.
    pub headers: Vec<(String, String)>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The status.
    pub status: u16,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// The beginning of the body.
    pub body: String,
}

/// Asks, in a process of its own.
pub(crate) async fn ask(platform: &Arc<Platform>, question: &Question) -> Result<Answer, String> {
    let words = |error: std::io::Error| format!("the probe could not be run: {error}");
    let mut command = tokio::process::Command::new(&platform.program);
    command.arg("probe").env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(user) = &platform.edge_user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(words)?;
    let input = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&input).await.map_err(words)?;
    }
    let limit = Duration::from_millis(question.timeout_ms) + Duration::from_secs(2);
    let output = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = output.map_err(|_| "no answer in time".to_owned())?.map_err(words)?;
    let said: Result<Answer, String> = serde_json::from_slice(&output.stdout)
        .map_err(|_| "the probe ended without a word".to_owned())?;
    said
}

/// The role: reads a question, prints what came of it.
pub fn main() -> Exit {
    let mut input = Vec::new();
    if std::io::stdin().take(1 << 20).read_to_end(&mut input).is_err() {
        return Exit::Internal;
    }
    let Ok(question) = serde_json::from_slice::<Question>(&input) else { return Exit::Usage };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Exit::Internal };
    let limit = Duration::from_millis(question.timeout_ms);
    let asked = async { tokio::time::timeout(limit, exchange(&question)).await };
    let said = runtime.block_on(asked).unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let text = serde_json::to_vec(&said).unwrap_or_default();
    match std::io::stdout().write_all(&text) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Internal,
    }
}

async fn exchange(question: &Question) -> Result<Answer, String> {
    let stream = TcpStream::connect(question.address)
        .await
        .map_err(|error| format!("no connection to {}: {error}", question.address))?;
    let Some(chain) = &question.certificate else { return speak(stream, question).await };
    let expected: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).flatten().collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(ExactlyThis { expected, provider: Arc::clone(&provider) });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(question.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS for `{}` failed: {error}", question.host))?;
    speak(stream, question).await
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    question: &Question,
) -> Result<Answer, String> {
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    tokio::spawn(connection);
    let authority = if question.certificate.is_some() && question.address.port() == 443 {
        question.host.clone()
    } else {
        format!("{}:{}", question.host, question.address.port())
    };
    let mut request = http::Request::builder()
        .method(question.method.as_str())
        .uri(&question.path)
        .header("host", authority)
        .header("user-agent", "seaworthy-probe")
        .header("accept", "*/*");
    for (name, value) in &question.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let id = response.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    let request_id = id.map(str::to_owned);
    let body = Limited::new(response.into_body(), BODY).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(Answer { status, request_id, body: String::from_utf8_lossy(&bytes).into_owned() })
}

/// Accepts one certificate only; its validity is the business of who made it.
#[derive(Debug)]
struct ExactlyThis {
    expected: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExactlyThis {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.expected.first().is_some_and(|expected| expected == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let what = "another certificate than this site's was shown";
        Err(rustls::Error::General(what.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

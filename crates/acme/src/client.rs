//! HTTP to authorities and to DNS providers: a connection for each request, over TLS with the system's roots.
//!
//! Why our own client around hyper: names must be resolved over TCP (`dns`), and a `Retry-After` has to reach
//! whoever decides about the next try, which the ACME library does not tell. Invariant: no request takes longer
//! than [`WHOLE`] and no answer more than [`LARGEST`].

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use seaworthy_base::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::dns::Resolver;

/// To connect to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// A whole request.
const WHOLE: Duration = Duration::from_secs(30);
/// The longest answer in bytes.
const LARGEST: usize = 4 << 20;

/// Why there was no answer.
#[derive(Debug)]
pub(crate) struct ClientError(String);

impl ClientError {
    fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ClientError {}

/// Sends requests.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) resolver: Arc<Resolver>,
    tls: Arc<ClientConfig>,
    /// The last `Retry-After` of an answer that refused.
    patience: Arc<Mutex<Option<Timestamp>>>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// Trusts the system's roots and those of `more` (PEM). Reads files.
    pub(crate) fn new(resolver: Resolver, more: Option<&str>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for root in more.into_iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
        {
            let root = root.map_err(|error| error.to_string())?;
            roots.add(root).map_err(|error| error.to_string())?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { resolver: Arc::new(resolver), tls: Arc::new(tls), patience: Arc::default() })
    }

    /// Until when the last answer that refused asked us to wait; forgotten by asking.
    pub(crate) fn take_patience(&self) -> Option<Timestamp> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        let authority = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let whole = tokio::time::timeout(WHOLE, self.send_inner(request)).await;
        let answer = whole.unwrap_or_else(|_| {
            Err(ClientError(format!("no answer within {} s", WHOLE.as_secs())))
        });
        let answer = answer.map_err(|error| ClientError(format!("`{authority}`: {error}")))?;
        if matches!(answer.status().as_u16(), 429 | 503) {
            let until = retry_after(&answer);
            *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
        Ok(answer)
    }

    async fn send_inner(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let (mut parts, body) = request.into_parts();
        let stream = self.connect(&parts.uri).await?;
        if let Some(authority) = parts.uri.authority() {
            let host = HeaderValue::from_str(authority.as_str()).map_err(ClientError::new)?;
            parts.headers.entry(HOST).or_insert(host);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().map_err(ClientError::new)?;
        if !body.is_empty() {
            parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(body.len()));
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::new)?;
        // It ends with the answer: what it says then is said by the answer, too.
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::from_parts(parts, Full::new(body));
        let answer = sender.send_request(request).await.map_err(ClientError::new)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(ClientError::new)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, ClientError> {
        let host = uri.host().ok_or_else(|| ClientError::new("the URL has no host"))?;
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let addresses = self.resolver.addresses(host).await;
        let addresses = addresses.map_err(|error| ClientError(format!("{host}: {error}")))?;
        let mut last = ClientError::new("the name has no address");
        for address in addresses {
            let connecting = TcpStream::connect((address, port));
            let stream = match tokio::time::timeout(CONNECT, connecting).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = ClientError::new(error);
                    continue;
                }
                Err(_) => {
                    last = ClientError(format!("{address} did not answer"));
                    continue;
                }
            };
            stream.set_nodelay(true).ok();
            if !tls {
                return Ok(Box::new(stream));
            }
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(bare).map_err(ClientError::new)?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            return connector.connect(name, stream).await.map_or_else(
                |error| Err(ClientError::new(error)),
                |stream| Ok(Box::new(stream) as Box<dyn Stream>),
            );
        }
        Err(last)
    }
}

/// Until when an answer asks us to wait (RFC 9110 § 10.2.3).
pub(crate) fn retry_after(answer: &Response<Bytes>) -> Option<Timestamp> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Timestamp(Timestamp::now().0.saturating_add(seconds.saturating_mul(1000))));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp(since.as_millis() as u64))
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let other = |error: ClientError| instant_acme::Error::Other(Box::new(error));
            let (parts, body) = request.into_parts();
            // A body of bytes that are all there: it cannot fail.
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let answer = client.send(Request::from_parts(parts, body)).await.map_err(other)?;
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

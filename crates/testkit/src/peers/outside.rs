//! A server outside that an application calls: it answers as the test says, and remembers who asked for what.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A call that came.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Call {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }
}

/// What is said to a call: status, further header lines, body.
#[derive(Debug, Clone)]
pub struct Say(pub u16, pub String, pub String);

type Answer = dyn Fn(&Call) -> Say + Send + Sync;

/// The server; it goes on until the process ends.
pub struct Outside {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    active: AtomicUsize,
    most: AtomicUsize,
    answer: Box<Answer>,
    tls: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outside({})", self.address)
    }
}

impl Outside {
    /// Starts one on a free port; over TLS with `api.pem` and `api.key` of a folder, where one is given. `answer` may
    /// wait.
    pub fn start(
        certificate: Option<&Path>,
        answer: impl Fn(&Call) -> Say + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            active: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            answer: Box::new(answer),
            tls: certificate.map(config),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The calls so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that it has not answered yet.
    pub fn active(&self) -> usize {
        self.shared.active.load(Ordering::SeqCst)
    }

    /// The most of them that there ever were at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }
}

fn config(folder: &Path) -> Arc<ServerConfig> {
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file of the certificate");
    let chain = CertificateDer::pem_slice_iter(&read("api.pem")).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(&read("api.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).expect("a pair"))
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        match &self.tls {
            None => self.converse(stream),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("a connection");
                self.converse(StreamOwned::new(connection, stream));
            }
        }
    }

    /// Until the client goes.
    fn converse(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some(call) = read(&mut stream) {
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
            let now = self.active.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let Say(status, headers, body) = (self.answer)(&call);
            self.active.fetch_sub(1, Ordering::SeqCst);
            let body = if call.method == "HEAD" { "" } else { &body };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                body.len()
            );
            let sent = stream.get_mut().write_all(answer.as_bytes());
            if sent.and_then(|()| stream.get_mut().flush()).is_err() {
                return;
            }
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Call> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Call { method, target, headers, body })
}

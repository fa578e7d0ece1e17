//! The whole edge in one process: configured over its link, spoken to in raw bytes, in front of an
//! upstream that says what it was sent. Every socket is on loopback; nothing waits for a fixed time.

mod attacks;
mod front;
mod fuzz;
mod health;
mod proxy;
mod releases;
pub(crate) mod simulated;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seaworthy_sys::fdpass;

use crate::EdgeOptions;
use crate::model::{
    Action, Config, Endpoint, EndpointState, Endpoints, Listener, Reply, Request, Route, Settings,
    Site,
};
use crate::snapshot::Shared;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running edge.
struct Edge {
    address: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<crate::worker::Worker>,
    link: UnixStream,
    dir: tempfile::TempDir,
}

impl Edge {
    /// With one site, `a.example`, and these routes; `web` of [`Action::Proxy`] is at `upstreams`.
    fn start(routes: Vec<Route>, upstreams: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EdgeOptions {
            number: 1,
            threads: 2,
            log_dir: dir.path().to_owned(),
            public: dir.path().to_owned(),
            unix_sockets: true,
            sockets: None,
            user: None,
        };
        let shared = Arc::new(Shared::new(&options));
        let workers: Vec<_> = (0..2)
            .map(|thread| crate::worker::spawn(thread, Arc::clone(&shared)).unwrap())
            .collect();
        let listeners = crate::link::Listeners {
            tcp: crate::accept::Acceptor::new(&workers),
            quic: crate::quic::Quic::new(&workers, &shared),
        };
        let listener = UnixListener::bind(dir.path().join("link")).unwrap();
        let link = UnixStream::connect(dir.path().join("link")).unwrap();
        let (of_link, of_edge) = (Arc::clone(&shared), workers.clone());
        std::thread::spawn(move || {
            crate::link::serve(
                &crate::link::Socket {
                    listener,
                    starter: seaworthy_sys::process::current_uid(),
                    unguarded: Vec::new(),
                    features: Vec::new(),
                },
                &of_link,
                &workers,
                &listeners,
            )
        });
        let public = TcpListener::bind("127.0.0.1:0").unwrap();
        let edge =
            Self { address: public.local_addr().unwrap(), shared, workers: of_edge, link, dir };
        edge.configure(routes);
        edge.place(upstreams, EndpointState::Ready);
        let listeners = vec![Listener { address: edge.address, tls: false, outgoing: false }];
        edge.say(&Request::Listen { listeners }, &[public.as_fd()]);
        edge
    }

    fn say(&self, request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) {
        fdpass::send_message(&self.link, &serde_json::to_vec(request).unwrap(), fds).unwrap();
        let (reply, _) = fdpass::receive_message(&self.link, 1 << 20).unwrap().unwrap();
        let reply: Reply = serde_json::from_slice(&reply).unwrap();
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    #[expect(clippy::unused_self, reason = "it is this edge's site")]
    fn site(&self, routes: Vec<Route>) -> Site {
        Site {
            name: "shop".into(),
            hosts: vec!["a.example".into()],
            trusted_proxies: vec!["127.0.0.2".into()],
            proxy_protocol: vec!["127.0.0.3".into()],
            routes,
            ..Site::default()
        }
    }

    fn configure(&self, routes: Vec<Route>) {
        self.configure_site(self.site(routes));
    }

    fn configure_site(&self, site: Site) {
        self.say(
            &Request::Config(Config { version: 1, sites: vec![site], ..Config::default() }),
            &[],
        );
    }

    fn place(&self, upstreams: &[SocketAddr], state: EndpointState) {
        let endpoint = |address: &SocketAddr| {
            let instance = format!("shop/web/{}@1", address.port());
            Endpoint { state, ..Endpoint::ready(instance, *address) }
        };
        let services =
            BTreeMap::from([("shop/web".to_owned(), upstreams.iter().map(endpoint).collect())]);
        self.say(&Request::Endpoints(Endpoints { version: 1, services }), &[]);
    }

    fn drain_workers(&self) {
        self.workers.iter().for_each(|worker| worker.send(crate::worker::Job::Drain));
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends bytes and reads until the edge closes the connection.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The edge may close while a huge head is still being sent; what it said is still to be read.
        stream.write_all(bytes).ok();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            panic!("not closed ({error}) after {:?}: {:?}", short(bytes), short(&answer));
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn log(&self) -> String {
        self.shared.log.flush();
        std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

fn short(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

pub(crate) fn route(path: &str, action: Action) -> Route {
    Route {
        path: path.into(),
        hosts: vec![],
        methods: vec![],
        action,
        settings: Settings::default(),
    }
}

fn to_web() -> Vec<Route> {
    vec![route("*", Action::Proxy("shop/web".into()))]
}

fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.").skip(1).map(|one| &one[2..5]).collect()
}

/// Waits for something that happens by itself.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::yield_now();
    }
}

/// A server that records each request as it came and answers by a rule.
struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// `answer` gets the connection's number, the number of the request on it, and the request; what it
    /// returns is written as it is. An empty answer closes the connection.
    fn start(answer: impl Fn(usize, usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (of_server, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let (seen, answer) = (Arc::clone(&of_server), Arc::clone(&answer));
                std::thread::spawn(move || {
                    serve(stream, &seen, |nth, text| answer(number, nth, text))
                });
            }
        });
        Self { address, seen }
    }

    /// One that says 200 and the path to everything.
    fn echo() -> Self {
        Self::start(|_, _, request| {
            let path = request.split(' ').nth(1).unwrap_or_default();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).into_bytes()
        })
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn last(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<String>>,
    answer: impl Fn(usize, &str) -> Vec<u8>,
) {
    let mut bytes = Vec::new();
    for nth in 0.. {
        let Some(request) = one_request(&mut stream, &mut bytes) else { return };
        seen.lock().unwrap().push(request.clone());
        let reply = answer(nth, &request);
        if reply.is_empty() || stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// Head and body of one request; chunked bodies as they are on the wire.
fn one_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n").map(|end| end + 4) {
            let head = text[..end].to_ascii_lowercase();
            let length: Option<usize> = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split('\r').next()?.parse().ok());
            let whole = match length {
                Some(length) if bytes.len() >= end + length => Some(end + length),
                None if head.contains("transfer-encoding: chunked") => {
                    text[end..].find("0\r\n\r\n").map(|at| end + at + 5)
                }
                None => Some(end),
                Some(_) => None,
            };
            if let Some(whole) = whole {
                let request = String::from_utf8_lossy(&bytes[..whole]).into_owned();
                bytes.drain(..whole);
                return Some(request);
            }
        }
        let mut room = [0; 4096];
        match stream.read(&mut room) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&room[..read]),
            _ => return None,
        }
    }
}

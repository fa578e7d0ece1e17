//! Thousands of connections that want little: idle ones, and ones that are slow on purpose.
//!
//! Idle ones ask once and then keep the connection, as browsers do. Slow ones send or take a few bytes
//! every few seconds, as attackers do, and come again when they are turned away. All come from many
//! loopback addresses, so that a bound for each address does not hide what the whole costs. Invariants:
//! every connection stands or is being opened anew until the end; what became of each is counted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::client_config;

/// Connections of each source address: fewer than an edge allows one address.
const OF_AN_ADDRESS: usize = 50;
/// Handshakes under way at once.
const AT_ONCE: usize = 64;
/// Between two bytes of a slow client.
const PAUSE: Duration = Duration::from_secs(2);
/// Before a slow client that was turned away comes again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// TLS, HTTP/1.1: one request, then nothing.
    IdleHttp1,
    /// TLS, HTTP/2: one request, then nothing.
    IdleHttp2,
    /// A head that never ends.
    SlowHead,
    /// A body that never ends.
    SlowBody,
    /// A large answer that is hardly taken.
    SlowRead,
}

impl Habit {
    /// By the name that a command line gives it.
    pub fn named(name: &str) -> Option<Self> {
        [
            ("idle-http1", Self::IdleHttp1),
            ("idle-http2", Self::IdleHttp2),
            ("slow-head", Self::SlowHead),
            ("slow-body", Self::SlowBody),
            ("slow-read", Self::SlowRead),
        ]
        .into_iter()
        .find_map(|(known, habit)| (known == name).then_some(habit))
    }

    fn is_idle(self) -> bool {
        matches!(self, Self::IdleHttp1 | Self::IdleHttp2)
    }
}

/// Where they go.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The proxy's address.
    pub address: SocketAddr,
    /// The name that is asked for.
    pub host: String,
    /// The path that is asked for.
    pub path: String,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct HeldCounts {
    /// Open now.
    pub open: AtomicUsize,
    /// Closed by the other side, or never opened, up to now.
    pub turned_away: AtomicUsize,
}

/// Connections that are held; a runtime must drive it.
#[derive(Debug, Clone)]
pub struct Held {
    goal: Goal,
    habit: Habit,
    tls: Option<Arc<ClientConfig>>,
    counts: Arc<HeldCounts>,
    opening: Arc<Semaphore>,
    quiet: Arc<AtomicBool>,
}

impl Held {
    /// With a certificate authority to trust the connections speak TLS.
    pub fn new(goal: Goal, habit: Habit, authority: Option<&Path>) -> Self {
        super::raise_open_files();
        let protocol = if habit == Habit::IdleHttp2 { "h2" } else { "http/1.1" };
        let tls = authority.map(|path| client_config(path, &[protocol]));
        let opening = Arc::new(Semaphore::new(AT_ONCE));
        let (counts, quiet) = (Arc::default(), Arc::default());
        Self { goal, habit, tls, counts, opening, quiet }
    }

    /// Lets the slow ones do nothing for a while, but stay; or go on, each when it would be its turn.
    pub fn keep_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Waits for so long, and on until they are not quiet.
    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
        while self.quiet.load(Ordering::Relaxed) {
            tokio::time::sleep(time).await;
        }
    }

    /// What became of them up to now.
    pub fn counts(&self) -> &HeldCounts {
        &self.counts
    }

    /// One of them, to its end: an idle one ends with its connection, a slow one never.
    pub async fn live(self, number: usize) {
        loop {
            let ended = self.once(number).await;
            self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
            if self.habit.is_idle() && ended.is_err() {
                return;
            }
            self.pause(AGAIN).await;
        }
    }

    async fn once(&self, number: usize) -> io::Result<()> {
        let permit = self.opening.acquire().await.map_err(io::Error::other)?;
        let stream = connect(self.goal.address, number).await?;
        let Some(config) = &self.tls else {
            drop(permit);
            return self.slow(stream).await;
        };
        let name = self.goal.host.clone().try_into().map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        if self.habit == Habit::IdleHttp2 {
            self.idle_http2(stream, permit).await
        } else {
            self.idle_http1(stream, permit).await
        }
    }

    async fn idle_http1(
        &self,
        stream: TlsStream<TcpStream>,
        permit: SemaphorePermit<'_>,
    ) -> io::Result<()> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(self.request()?).await;
        self.keep(answer, driver, sender, permit).await
    }

    async fn idle_http2(
        &self,
        stream: TlsStream<TcpStream>,
        permit: SemaphorePermit<'_>,
    ) -> io::Result<()> {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(self.request()?).await;
        self.keep(answer, driver, sender, permit).await
    }

    /// Keeps a connection that was answered until the other side ends it; without its sender it would end by itself.
    async fn keep(
        &self,
        answer: hyper::Result<http::Response<Incoming>>,
        driver: JoinHandle<hyper::Result<()>>,
        _sender: impl Sized,
        permit: SemaphorePermit<'_>,
    ) -> io::Result<()> {
        let answer = answer.map_err(io::Error::other)?;
        answer.into_body().collect().await.map_err(io::Error::other)?;
        drop(permit);
        let _open = Open::new(&self.counts);
        driver.await.ok();
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn request(&self) -> io::Result<http::Request<Empty<Bytes>>> {
        let target = if self.habit == Habit::IdleHttp2 {
            format!("https://{}:{}{}", self.goal.host, self.goal.address.port(), self.goal.path)
        } else {
            self.goal.path.clone()
        };
        let host = format!("{}:{}", self.goal.host, self.goal.address.port());
        let request = http::Request::get(target);
        let request =
            if self.habit == Habit::IdleHttp2 { request } else { request.header("host", host) };
        request.body(Empty::new()).map_err(io::Error::other)
    }

    async fn slow(&self, mut stream: TcpStream) -> io::Result<()> {
        let _open = Open::new(&self.counts);
        let Goal { host, path, .. } = &self.goal;
        match self.habit {
            Habit::SlowBody => {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                self.drip(&mut stream, b"a").await
            }
            Habit::SlowRead => {
                let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut few = [0; 64];
                while stream.read(&mut few).await? > 0 {
                    self.pause(PAUSE).await;
                }
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            _ => {
                let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
                stream.write_all(head.as_bytes()).await?;
                self.drip(&mut stream, b"X-a: b\r\n").await
            }
        }
    }

    /// Sends the same few bytes again and again; ends when the other side has enough.
    async fn drip(&self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        let mut answer = [0; 1024];
        loop {
            tokio::select! {
                read = stream.read(&mut answer) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
                () = self.pause(PAUSE) => stream.write_all(bytes).await?,
            }
        }
    }
}

/// A connection from a loopback address of its own crowd: 127.1.0.1 and on.
async fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let crowd = number / OF_AN_ADDRESS;
    let [high, low] = u16::try_from(crowd + 1).map_err(io::Error::other)?.to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    // A slow reader's window is small from the beginning.
    socket.set_recv_buffer_size(8 << 10)?;
    socket.bind(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 1, high, low), 0)))?;
    socket.connect(address).await
}

/// Counts a connection while it stands.
struct Open(Arc<HeldCounts>);

impl Open {
    fn new(counts: &Arc<HeldCounts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

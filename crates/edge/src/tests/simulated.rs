//! What takes minutes, in no time: one thread of the edge on a clock that jumps when nobody has anything
//! to do, with clients on pipes and instances on loopback sockets of the same thread.
//!
//! Loopback is mostly served by the kernel while a call is made, and on a busy machine a little later: the clock
//! jumps by a second at most and waits for the kernel in between.

mod collapsed;
mod deadlines;
mod delivery;
mod http3;
mod protocols;
mod retries;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream as Stream;

use super::*;
use crate::serve::Client;
use crate::worker::Local;

/// One thread of an edge whose site is `a.example`.
pub(crate) struct Simulated {
    pub(crate) local: Rc<Local>,
    _dir: tempfile::TempDir,
}

/// Runs a test on the jumping clock.
pub(crate) fn simulate<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(small_jumps());
        test.await
    })
}

/// Bounds the jumps of the clock. It stands still while something blocks.
async fn small_jumps() {
    loop {
        let kernel = || std::thread::sleep(Duration::from_millis(1));
        tokio::task::spawn_blocking(kernel).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Simulated {
    pub(crate) fn new(routes: Vec<Route>, upstreams: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EdgeOptions {
            number: 1,
            threads: 1,
            log_dir: dir.path().to_owned(),
            ..EdgeOptions::default()
        };
        let shared = Arc::new(Shared::new(&options));
        let site = Site {
            name: "shop".into(),
            hosts: vec!["a.example".into()],
            http3_port: Some(443),
            routes,
            ..Site::default()
        };
        shared.with_config(&Config { version: 1, sites: vec![site], ..Config::default() }).unwrap();
        let local = Rc::new(Local::new(shared, 0));
        let watch = Rc::clone(&local.watch);
        tokio::task::spawn_local(async move { watch.run().await });
        let edge = Self { local, _dir: dir };
        edge.place(upstreams.iter().map(|address| endpoint(*address)).collect());
        edge
    }

    /// The instances of `web` from now on.
    fn place(&self, list: Vec<Endpoint>) {
        let services = BTreeMap::from([("shop/web".to_owned(), list)]);
        self.local.shared.with_endpoints(&Endpoints { version: 1, services });
        crate::upstream::check::start(&self.local);
        self.local.swapped.notify_waiters();
    }

    /// What one request is answered with.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.client();
        client.write_all(request.as_bytes()).await.unwrap();
        rest(&mut client).await
    }

    /// A client's end of a connection over HTTP/1.1.
    fn client(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(4 << 10);
        let local = Rc::clone(&self.local);
        tokio::task::spawn_local(async move {
            let client = Client::new([192, 0, 2, 1].into(), 80, false);
            crate::h1::serve(&local, theirs, Arc::new(client)).await;
        });
        ours
    }

    /// The same over HTTP/2, whose client gives each stream a window of so many bytes.
    async fn http2(&self, window: u32) -> Http2 {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let local = Rc::clone(&self.local);
        tokio::task::spawn_local(async move {
            let mut client = Client::new([192, 0, 2, 1].into(), 443, true);
            client.protocol = crate::serve::Protocol::Http2;
            crate::h2::serve(&local, theirs, Arc::new(client)).await;
        });
        let (sender, connection) = hyper::client::conn::http2::Builder::new(Here)
            .initial_stream_window_size(window)
            .initial_connection_window_size(1 << 20)
            .handshake(hyper_util::rt::TokioIo::new(ours))
            .await
            .unwrap();
        let over = Rc::new(tokio::sync::Notify::new());
        let of_connection = Rc::clone(&over);
        tokio::task::spawn_local(async move {
            connection.await.ok();
            of_connection.notify_one();
        });
        Http2 { sender, over }
    }
}

/// An instance that is ready.
fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::ready(format!("shop/web/{}@1", address.port()), address)
}

/// A client of HTTP/2.
struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Pieces>,
    /// Told when the connection has ended.
    over: Rc<tokio::sync::Notify>,
}

/// Runs the client's tasks on the test's thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A request's body: what was put into the channel, until that is closed.
struct Pieces(tokio::sync::mpsc::UnboundedReceiver<bytes::Bytes>);

impl hyper::body::Body for Pieces {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
    }
}

/// An instance: what it does with each connection.
async fn instance<F: Future<Output = ()> + 'static>(
    serve: impl Fn(Stream, Rc<RefCell<Vec<String>>>) -> F + 'static,
) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let of_task = Rc::clone(&seen);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, Rc::clone(&of_task)));
        }
    });
    (address, seen)
}

/// Reads a head.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Everything until the edge closes.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

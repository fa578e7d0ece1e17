//! Load that counts: what was answered, refused, reset, wrong, lost or slow, and the longest silence.
//!
//! Open loop: requests are due at fixed moments whether or not earlier ones were answered, and times
//! count from when a request was due; a generator that waits for answers would overlook every pause.
//! Each request asks `/say` for a text of its own, so that an answer meant for somebody else is
//! noticed. Kinds: keep-alive, a new connection (full handshake) for each, HTTP/2, and WebSockets that
//! echo. Each kind has its own thread, so that one that suffers does not delay another.
//!
//! Invariants: every request issued is counted exactly once; a run ends by itself. What a correct
//! client does unasked (opening a new connection when an idle one was closed, repeating a request
//! that provably was never processed) is done here too, and counted apart.

mod connect;
mod crowd;
mod held;
mod report;
mod requests;
mod web_sockets;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

pub use crowd::{Crowd, CrowdReport};
pub use held::{Goal, Habit, Held, HeldCounts};
pub use report::{Counts, Report, WebSocketCounts};

use report::Tally;

/// Where load goes: a site served by an edge.
#[derive(Debug, Clone)]
pub struct Target {
    /// The edge's address.
    pub address: SocketAddr,
    /// The site's host.
    pub host: String,
    /// The authority to trust; plain HTTP when absent.
    pub ca: Option<PathBuf>,
}

/// How a request reaches the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 over connections that are kept.
    KeepAlive,
    /// HTTP/1.1 over a connection of its own.
    NewConnection,
    /// HTTP/2 over a few connections.
    Http2,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::KeepAlive, Self::NewConnection, Self::Http2];

    /// Its place in tables.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn name(self) -> &'static str {
        ["keep-alive", "new connection", "HTTP/2"][self.index()]
    }
}

/// Load to be put on a target.
#[derive(Debug, Clone)]
pub struct Load {
    target: Target,
    rates: [f64; 3],
    web_sockets: usize,
    slow: Duration,
    patience: Duration,
}

impl Load {
    /// No load yet; an answer after 1 s is slow, one after 10 s lost.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            rates: [0.0; 3],
            web_sockets: 0,
            slow: Duration::from_secs(1),
            patience: Duration::from_secs(10),
        }
    }

    /// So many requests a second of that kind.
    pub fn rate(mut self, kind: Kind, a_second: f64) -> Self {
        self.rates[kind.index()] = a_second;
        self
    }

    /// So many requests a second in all: seven tenths keep-alive, one new connections, two HTTP/2.
    pub fn mixed(self, a_second: f64) -> Self {
        self.rate(Kind::KeepAlive, a_second * 0.7)
            .rate(Kind::NewConnection, a_second * 0.1)
            .rate(Kind::Http2, a_second * 0.2)
    }

    /// So many WebSockets, each echoing four times a second.
    pub fn web_sockets(mut self, count: usize) -> Self {
        self.web_sockets = count;
        self
    }

    /// From which time on an answer is slow, and from which on it is lost.
    pub fn times(mut self, slow: Duration, patience: Duration) -> Self {
        (self.slow, self.patience) = (slow, patience);
        self
    }

    /// Begins; ends by itself after `longest`.
    pub fn start(self, longest: Duration) -> RunningLoad {
        let tally = Arc::new(Tally::new(self.slow));
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for kind in Kind::ALL {
            let rate = self.rates[kind.index()];
            if rate > 0.0 {
                let run = requests::run(
                    requests::Plan {
                        kind,
                        target: self.target.clone(),
                        rate,
                        patience: self.patience,
                        longest,
                    },
                    Arc::clone(&tally),
                    stopped.clone(),
                );
                threads.push(on_a_thread(run));
            }
        }
        if self.web_sockets > 0 {
            threads.push(on_a_thread(web_sockets::run(
                self.target.clone(),
                self.web_sockets,
                self.patience,
                longest,
                Arc::clone(&tally),
                stopped,
            )));
        }
        RunningLoad { tally, stop, threads }
    }
}

fn on_a_thread(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for load");
        runtime.block_on(work);
    })
}

/// Load under way.
#[derive(Debug)]
pub struct RunningLoad {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningLoad {
    /// What was counted up to now.
    pub fn so_far(&self) -> Report {
        self.tally.report()
    }

    /// Issues nothing more, waits for what is under way, and returns the count.
    pub fn stop(self) -> Report {
        self.stop.send_replace(true);
        self.finish()
    }

    /// Waits for the end of the run.
    pub fn finish(self) -> Report {
        for thread in self.threads {
            thread.join().expect("the load's thread");
        }
        self.tally.close();
        self.tally.report()
    }
}

/// As many open files as this process may have.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // Refused, connections fail and are counted.
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).ok();
}

//! Thousands of connections that are kept: each asks, waits for the answer, pauses, asks again.
//!
//! What load by rate does not show: many clients hold connections to an edge that goes, and each of them
//! must be told before it is closed. Strict: a request that was written and not answered is lost, also
//! on a connection that was idle before; nothing is repeated. A connection that was closed with
//! `Connection: close` on its last answer is opened anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::Target;
use super::connect::{Connection, Connector};

/// Reasons kept.
const MOST_REASONS: usize = 10;

/// What was counted.
#[derive(Debug, Default)]
struct Tally {
    open: AtomicUsize,
    answered: AtomicU64,
    told_to_close: AtomicU64,
    lost: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

impl Tally {
    fn report(&self) -> CrowdReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CrowdReport {
            open: self.open.load(Ordering::Relaxed),
            answered: count(&self.answered),
            told_to_close: count(&self.told_to_close),
            lost: count(&self.lost),
            reasons: self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// The state of a crowd.
#[derive(Debug, Clone)]
pub struct CrowdReport {
    /// Connections open now.
    pub open: usize,
    /// Requests answered.
    pub answered: u64,
    /// Connections whose last answer said that it was the last.
    pub told_to_close: u64,
    /// Requests that were not answered, and connections that were refused.
    pub lost: u64,
    /// Why, for the first of them.
    pub reasons: Vec<String>,
}

/// A crowd at work.
#[derive(Debug)]
pub struct Crowd {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Crowd {
    /// So many connections to a target, each with about that pause between two requests.
    pub fn start(target: Target, connections: usize, pause: Duration) -> Self {
        super::raise_open_files();
        let tally = Arc::new(Tally::default());
        let (stop, stopped) = watch::channel(false);
        let of_thread = Arc::clone(&tally);
        let thread = super::on_a_thread(async move {
            let connector = Connector::new(target, "http/1.1");
            let all = (0..connections).map(|number| {
                // From a half to one and a half of it, so that they do not walk in step.
                let share = (number % 101) as f64 / 101.0 + 0.5;
                let one = One {
                    connector: connector.clone(),
                    tally: Arc::clone(&of_thread),
                    stopped: stopped.clone(),
                    pause: pause.mul_f64(share),
                };
                tokio::spawn(one.live())
            });
            for one in all.collect::<Vec<_>>() {
                // One that panicked is seen in the counts.
                one.await.ok();
            }
        });
        Self { tally, stop, thread }
    }

    /// What was counted up to now.
    pub fn so_far(&self) -> CrowdReport {
        self.tally.report()
    }

    /// Waits for the answers under way and returns the count.
    ///
    /// # Panics
    /// When the load itself failed.
    pub fn stop(self) -> CrowdReport {
        let Self { tally, stop, thread } = self;
        stop.send_replace(true);
        thread.join().expect("the crowd");
        tally.report()
    }
}

/// One client.
struct One {
    connector: Connector,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
    pause: Duration,
}

impl One {
    async fn live(mut self) {
        while !*self.stopped.borrow() {
            let mut connection = match self.connector.connect().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.lost(&format!("while connecting: {error}"));
                    continue;
                }
            };
            self.tally.open.fetch_add(1, Ordering::Relaxed);
            let ended = self.talk(&mut connection).await;
            self.tally.open.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = ended {
                self.lost(&error.to_string());
            }
        }
    }

    fn lost(&self, why: &str) {
        self.tally.lost.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.tally.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < MOST_REASONS {
            reasons.push(why.to_owned());
        }
    }

    /// Asks until it is told to stop, or that an answer was the last.
    async fn talk(&mut self, connection: &mut Connection) -> io::Result<()> {
        let host = self.connector.host();
        let request = format!("GET /crowd HTTP/1.1\r\nhost: {host}\r\n\r\n");
        while !*self.stopped.borrow() {
            connection.write_all(request.as_bytes()).await?;
            connection.flush().await?;
            let last = read_answer(connection).await?;
            self.tally.answered.fetch_add(1, Ordering::Relaxed);
            if last {
                self.tally.told_to_close.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause) => {}
                _ = self.stopped.changed() => {}
            }
        }
        Ok(())
    }
}

/// Reads one answer of status 200; whether it said that it is the last.
async fn read_answer(connection: &mut Connection) -> io::Result<bool> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let field = |name: &str| {
                head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
            };
            if !head.starts_with("http/1.1 200 ") {
                return Err(io::Error::other(head));
            }
            let length: usize = field("content-length:")
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| io::Error::other("an answer without a length"))?;
            if bytes.len() >= end + 4 + length {
                return Ok(field("connection:").is_some_and(|value| value == "close"));
            }
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

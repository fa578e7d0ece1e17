//! Requests of one kind, each due at its moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::connect::{Connector, chain, failed_connect, never_processed};
use super::report::{Outcome, Tally};
use super::{Kind, Target};

/// Requests under way at once, at most.
const MAX_UNDER_WAY: usize = 2_000;
/// Connections over which HTTP/2 requests are spread.
const HTTP2_CONNECTIONS: usize = 4;
/// Attempts of a request that provably was not processed.
const ATTEMPTS: usize = 3;

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    pub(crate) rate: f64,
    pub(crate) patience: Duration,
    pub(crate) longest: Duration,
}

struct Sender {
    kind: Kind,
    connector: Connector,
    patience: Duration,
    tally: Arc<Tally>,
    idle: Mutex<Vec<http1::SendRequest<Empty<Bytes>>>>,
    multiplexed: [tokio::sync::Mutex<Option<http2::SendRequest<Empty<Bytes>>>>; HTTP2_CONNECTIONS],
    under_way: AtomicUsize,
}

/// How an attempt ended that is not to be repeated, or that may be.
enum Attempt {
    Ended(Outcome),
    Repeat(String),
}

/// Issues requests until the time is over or the run is stopped, and waits for the last answers.
pub(crate) async fn run(plan: Plan, tally: Arc<Tally>, mut stopped: watch::Receiver<bool>) {
    let protocol = if plan.kind == Kind::Http2 { "h2" } else { "http/1.1" };
    let sender = Arc::new(Sender {
        kind: plan.kind,
        connector: Connector::new(plan.target, protocol),
        patience: plan.patience,
        tally,
        idle: Mutex::new(Vec::new()),
        multiplexed: Default::default(),
        under_way: AtomicUsize::new(0),
    });
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / plan.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + plan.longest;
    for number in 0_u64.. {
        let due = tokio::select! { biased; _ = stopped.wait_for(|stop| *stop) => break, due = ticks.tick() => due };
        if due >= end {
            break;
        }
        if sender.under_way.fetch_add(1, Ordering::Relaxed) >= MAX_UNDER_WAY {
            sender.under_way.fetch_sub(1, Ordering::Relaxed);
            sender.tally.not_sent(plan.kind);
            continue;
        }
        sender.tally.issued(plan.kind);
        let sender = Arc::clone(&sender);
        tokio::spawn(async move {
            let outcome = tokio::time::timeout(sender.patience, sender.one(number))
                .await
                .unwrap_or(Outcome::Lost);
            sender.tally.ended(sender.kind, &outcome, due.elapsed());
            sender.under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
    // Bounded: each one ends within the patience.
    while sender.under_way.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Sender {
    async fn one(&self, number: u64) -> Outcome {
        let text = format!("{}-{number}", self.kind.index());
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.tally.repeated(self.kind);
            }
            let ended = match self.kind {
                Kind::Http2 => self.over_http2(number, &text).await,
                _ => self.over_http1(&text).await,
            };
            match ended {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Repeat(why) => last = why,
            }
        }
        Outcome::Reset(format!("{ATTEMPTS} attempts: {last}"))
    }

    async fn over_http1(&self, text: &str) -> Attempt {
        let mut sender = match self.idle_connection().await {
            Some(sender) => sender,
            None => match self.new_connection().await {
                Ok(sender) => sender,
                Err(outcome) => return Attempt::Ended(outcome),
            },
        };
        let close = self.kind == Kind::NewConnection;
        let request = self.request(text, false, close);
        let attempt = judge(sender.send_request(request).await, text).await;
        if !close && matches!(attempt, Attempt::Ended(Outcome::Ok)) {
            self.idle.lock().expect("nobody panics here").push(sender);
        }
        attempt
    }

    /// A kept connection that still stands; those that were closed while idle are thrown away.
    async fn idle_connection(&self) -> Option<http1::SendRequest<Empty<Bytes>>> {
        loop {
            let mut sender = self.idle.lock().expect("nobody panics here").pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn new_connection(&self) -> Result<http1::SendRequest<Empty<Bytes>>, Outcome> {
        let stream = self.connector.connect().await.map_err(|error| failed_connect(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Outcome::Reset(chain(&error)))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn over_http2(&self, number: u64, text: &str) -> Attempt {
        let mut slot = self.multiplexed[(number % HTTP2_CONNECTIONS as u64) as usize].lock().await;
        let usable = match slot.as_mut() {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            *slot = None;
            let stream = match self.connector.connect().await {
                Ok(stream) => stream,
                Err(error) => return Attempt::Ended(failed_connect(&error)),
            };
            match http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await {
                Ok((sender, connection)) => {
                    tokio::spawn(connection);
                    *slot = Some(sender);
                }
                Err(error) => return Attempt::Ended(Outcome::Reset(chain(&error))),
            }
        }
        let Some(mut sender) = slot.clone() else {
            return Attempt::Repeat("no connection".to_owned());
        };
        drop(slot);
        judge(sender.send_request(self.request(text, true, false)).await, text).await
    }

    fn request(&self, text: &str, absolute: bool, close: bool) -> http::Request<Empty<Bytes>> {
        let origin = self.connector.origin("http");
        let target = format!("/say?text={text}");
        let mut builder =
            http::Request::get(if absolute { format!("{origin}{target}") } else { target });
        if !absolute {
            builder = builder
                .header("host", origin.split_once("://").map_or("", |(_, authority)| authority));
        }
        if close {
            builder = builder.header("connection", "close");
        }
        builder.body(Empty::new()).expect("a valid request")
    }
}

async fn judge(answer: Result<http::Response<Incoming>, hyper::Error>, expected: &str) -> Attempt {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if never_processed(&error) => return Attempt::Repeat(chain(&error)),
        Err(error) => return Attempt::Ended(Outcome::Reset(chain(&error))),
    };
    let status = answer.status().as_u16();
    Attempt::Ended(match answer.into_body().collect().await {
        Err(error) => Outcome::Reset(format!("within the body: {}", chain(&error))),
        Ok(_) if status != 200 => Outcome::Status(status),
        Ok(body) => match body.to_bytes() {
            text if text == expected.as_bytes() => Outcome::Ok,
            text => Outcome::Body(format!(
                "`{}` instead of `{expected}`",
                String::from_utf8_lossy(text.get(..40).unwrap_or(&text))
            )),
        },
    })
}

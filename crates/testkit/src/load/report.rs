//! What a run came to, and the tally in which it is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Kind;

/// Failures that are described, beyond being counted.
const DESCRIBED: usize = 20;

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Refused,
    Reset(String),
    Status(u16),
    Body(String),
    Lost,
}

/// Counts of one kind of request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Sent.
    pub issued: u64,
    /// Answered with 200 and the right text.
    pub ok: u64,
    /// No connection: nobody listened.
    pub refused: u64,
    /// The connection ended before the answer did.
    pub reset: u64,
    /// Another status (0 stands for a wrong text).
    pub wrong: BTreeMap<u16, u64>,
    /// No answer in time.
    pub lost: u64,
    /// Of `ok`: later than they should be.
    pub slow: u64,
    /// Sent again because the first attempt provably was not processed; no failure.
    pub repeated: u64,
    /// Due, but not sent because too many were under way: the generator's own limit.
    pub not_sent: u64,
    /// Milliseconds from due to answered: median, 99th of a hundred, longest.
    pub times: [f64; 3],
}

impl Counts {
    /// Everything that did not go well.
    pub fn failures(&self) -> u64 {
        self.refused + self.reset + self.wrong.values().sum::<u64>() + self.lost
    }
}

/// Counts of the WebSockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSocketCounts {
    /// Opened, reopened ones included.
    pub opened: u64,
    /// Messages that came back as they were sent.
    pub echoes: u64,
    /// Ended by the other side with a close frame, by its code.
    pub closed: BTreeMap<u16, u64>,
    /// Ended without one.
    pub reset: u64,
    /// Could not be opened: nobody listened.
    pub refused: u64,
    /// Could not be opened: another answer than 101.
    pub not_upgraded: u64,
    /// Messages that came back changed.
    pub wrong: u64,
    /// Messages that did not come back in time.
    pub lost: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests, by kind in the order keep-alive, new connection, HTTP/2.
    pub requests: [Counts; 3],
    /// WebSockets.
    pub web_sockets: WebSocketCounts,
    /// The longest time without any good answer, of the whole run.
    pub worst_gap: Duration,
    /// The first failures, with when and what.
    pub described: Vec<String>,
}

impl Report {
    /// Counts of one kind.
    pub fn of(&self, kind: Kind) -> &Counts {
        &self.requests[kind.index()]
    }

    /// Good answers of all kinds.
    pub fn ok(&self) -> u64 {
        self.requests.iter().map(|counts| counts.ok).sum()
    }

    /// Requests that did not go well, of all kinds.
    pub fn failures(&self) -> u64 {
        self.requests.iter().map(Counts::failures).sum()
    }

    /// Connections refused, of requests and WebSockets.
    pub fn refused(&self) -> u64 {
        self.requests.iter().map(|counts| counts.refused).sum::<u64>() + self.web_sockets.refused
    }

    /// WebSockets that ended or failed although nobody asked them to.
    pub fn web_sockets_broken(&self) -> u64 {
        let ws = &self.web_sockets;
        ws.closed.values().sum::<u64>()
            + ws.reset
            + ws.refused
            + ws.not_upgraded
            + ws.wrong
            + ws.lost
    }

    /// WebSockets that ended otherwise than by 1001, which tells them to come again.
    pub fn web_sockets_dropped(&self) -> u64 {
        let told = self.web_sockets.closed.get(&1001).copied().unwrap_or_default();
        self.web_sockets_broken() - told
    }

    /// Ends the test unless something was answered and nothing whatever went wrong.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.ok() > 0 || self.web_sockets.echoes > 0, "there was no load:\n{self}");
        assert!(
            self.failures() == 0 && self.web_sockets_broken() == 0,
            "something was dropped:\n{self}"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "kind", "issued", "ok", "refused", "reset", "wrong", "lost", "slow", "repeated",
            "p50 ms", "p99 ms", "max ms",
        ];
        writeln!(
            f,
            "{:<15}{:>8}{:>8}{:>8}{:>7}{:>7}{:>6}{:>6}{:>9}{:>8}{:>8}{:>8}",
            head[0],
            head[1],
            head[2],
            head[3],
            head[4],
            head[5],
            head[6],
            head[7],
            head[8],
            head[9],
            head[10],
            head[11]
        )?;
        for kind in Kind::ALL {
            let c = self.of(kind);
            let wrong: u64 = c.wrong.values().sum();
            let [p50, p99, max] = c.times;
            write!(
                f,
                "{:<15}{:>8}{:>8}{:>8}{:>7}{wrong:>7}{:>6}{:>6}{:>9}{p50:>8.1}{p99:>8.1}{max:>8.1}",
                kind.name(),
                c.issued,
                c.ok,
                c.refused,
                c.reset,
                c.lost,
                c.slow,
                c.repeated
            )?;
            let statuses: Vec<String> =
                c.wrong.iter().map(|(status, count)| format!("{count} × {status}")).collect();
            writeln!(
                f,
                "{}{}",
                if statuses.is_empty() {
                    String::new()
                } else {
                    format!("  wrong: {}", statuses.join(", "))
                },
                if c.not_sent > 0 { format!("  not sent: {}", c.not_sent) } else { String::new() }
            )?;
        }
        let ws = &self.web_sockets;
        write!(
            f,
            "WebSockets: {} opened, {} echoes, {} reset, {} refused, {} not upgraded, {} wrong, {} lost",
            ws.opened, ws.echoes, ws.reset, ws.refused, ws.not_upgraded, ws.wrong, ws.lost
        )?;
        for (code, count) in &ws.closed {
            write!(f, ", {count} closed with {code}")?;
        }
        writeln!(f, "\nlongest time without a good answer: {} ms", self.worst_gap.as_millis())?;
        self.described.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Where everything is counted while it happens.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: Instant,
    slow: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    report: Report,
    /// Microseconds of each good answer.
    times: [Vec<u32>; 3],
    last_ok: Instant,
}

impl Tally {
    pub(crate) fn new(slow: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            slow,
            inner: Mutex::new(Inner {
                report: Report::default(),
                times: Default::default(),
                last_ok: begun,
            }),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().expect("nobody panics while counting"))
    }

    pub(crate) fn issued(&self, kind: Kind) {
        self.with(|inner| inner.report.requests[kind.index()].issued += 1);
    }

    pub(crate) fn repeated(&self, kind: Kind) {
        self.with(|inner| inner.report.requests[kind.index()].repeated += 1);
    }

    pub(crate) fn not_sent(&self, kind: Kind) {
        self.with(|inner| inner.report.requests[kind.index()].not_sent += 1);
    }

    pub(crate) fn ended(&self, kind: Kind, outcome: &Outcome, took: Duration) {
        let at = self.begun.elapsed();
        self.with(|inner| {
            let counts = &mut inner.report.requests[kind.index()];
            match outcome {
                Outcome::Ok => {
                    counts.ok += 1;
                    counts.slow += u64::from(took > self.slow);
                    inner.times[kind.index()]
                        .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                    inner.report.worst_gap = inner.report.worst_gap.max(inner.last_ok.elapsed());
                    inner.last_ok = Instant::now();
                    return;
                }
                Outcome::Refused => counts.refused += 1,
                Outcome::Reset(_) => counts.reset += 1,
                Outcome::Status(status) => *counts.wrong.entry(*status).or_default() += 1,
                Outcome::Body(_) => *counts.wrong.entry(0).or_default() += 1,
                Outcome::Lost => counts.lost += 1,
            }
            describe(
                inner,
                format!(
                    "after {} ms, {}: {outcome:?} ({} ms after it was due)",
                    at.as_millis(),
                    kind.name(),
                    took.as_millis()
                ),
            );
        });
    }

    pub(crate) fn web_socket(
        &self,
        change: impl FnOnce(&mut WebSocketCounts),
        what: Option<String>,
    ) {
        let at = self.begun.elapsed();
        self.with(|inner| {
            change(&mut inner.report.web_sockets);
            if let Some(what) = what {
                describe(inner, format!("after {} ms, WebSocket: {what}", at.as_millis()));
            }
        });
    }

    /// Counts the silence at the end of the run as well.
    pub(crate) fn close(&self) {
        self.with(|inner| {
            if inner.report.requests.iter().any(|counts| counts.issued > counts.ok) {
                inner.report.worst_gap = inner.report.worst_gap.max(inner.last_ok.elapsed());
            }
        });
    }

    pub(crate) fn report(&self) -> Report {
        self.with(|inner| {
            for (counts, times) in inner.report.requests.iter_mut().zip(&mut inner.times) {
                times.sort_unstable();
                let at = |part: f64| {
                    times
                        .get(
                            ((times.len() as f64 * part) as usize)
                                .min(times.len().saturating_sub(1)),
                        )
                        .map_or(0.0, |us| f64::from(*us) / 1e3)
                };
                counts.times = [at(0.5), at(0.99), at(1.0)];
            }
            inner.report.clone()
        })
    }
}

fn describe(inner: &mut Inner, line: String) {
    if inner.report.described.len() < DESCRIBED {
        inner.report.described.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_once_and_in_its_place() {
        let tally = Tally::new(Duration::from_millis(10));
        let outcomes = [
            Outcome::Ok,
            Outcome::Ok,
            Outcome::Refused,
            Outcome::Reset(String::new()),
            Outcome::Status(502),
            Outcome::Body(String::new()),
            Outcome::Lost,
        ];
        for (number, outcome) in outcomes.iter().enumerate() {
            tally.issued(Kind::Http2);
            tally.ended(Kind::Http2, outcome, Duration::from_millis(number as u64 * 20));
        }
        let report = tally.report();
        let counts = report.of(Kind::Http2);
        assert_eq!((counts.issued, counts.ok, counts.slow, counts.failures()), (7, 2, 1, 5));
        assert_eq!(counts.wrong, BTreeMap::from([(0, 1), (502, 1)]));
        assert_eq!(report.described.len(), 5);
        assert!(report.to_string().contains("1 × 502"));
    }
}

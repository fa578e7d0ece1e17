//! The thread that checks: readiness and liveness, without holding up the shim.
//!
//! While an instance starts, checks follow quickly (every 50 ms, growing), so that it is in rotation
//! within a moment of listening; then at the declared interval. Invariant: results carry the number of
//! the start they belong to, so that a late answer about an earlier process is ignored.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::model::Probe;
use crate::probe;
use crate::socket::Address;

/// What to check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Target {
    start: u64,
    address: Option<Address>,
    was_ready: bool,
}

/// What a check found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) start: u64,
    pub(super) ready: Option<Result<(), String>>,
    pub(super) live: Option<Result<(), String>>,
}

/// The handle to the thread.
#[derive(Debug)]
pub(super) struct Prober {
    target: Arc<(Mutex<Target>, Condvar)>,
    findings: mpsc::Receiver<Finding>,
}

impl Prober {
    /// Starts the thread; a byte is written to `wake` with each finding.
    pub(super) fn new(ready: Probe, live: Probe, wake: UnixStream) -> std::io::Result<Self> {
        let target = Arc::new((Mutex::new(Target::default()), Condvar::new()));
        let (sender, findings) = mpsc::channel();
        let shared = Arc::clone(&target);
        let thread = std::thread::Builder::new().name("probe".to_owned()).stack_size(192 << 10);
        thread.spawn(move || run(&shared, &ready, &live, &sender, wake))?;
        Ok(Self { target, findings })
    }

    /// Sets what is checked; nothing without an address.
    pub(super) fn aim(&self, start: u64, address: Option<Address>, was_ready: bool) {
        let mut target = self.target.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Target { start, address, was_ready };
        if *target != new {
            *target = new;
            self.target.1.notify_one();
        }
    }

    pub(super) fn next(&self) -> Option<Finding> {
        self.findings.try_recv().ok()
    }
}

fn run(
    shared: &(Mutex<Target>, Condvar),
    ready: &Probe,
    live: &Probe,
    sender: &mpsc::Sender<Finding>,
    mut wake: UnixStream,
) {
    let mut last_start = 0;
    let (mut pause, mut next_ready, mut next_live) =
        (Duration::ZERO, Instant::now(), Instant::now());
    loop {
        let target = {
            let mut target = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let due = if target.start != last_start || target.address.is_none() {
                    Instant::now()
                } else {
                    next_ready.min(next_live)
                };
                let left = due.saturating_duration_since(Instant::now());
                if target.address.is_some() && left.is_zero() {
                    break target.clone();
                }
                let left = if target.address.is_none() { Duration::from_secs(3600) } else { left };
                target =
                    shared.1.wait_timeout(target, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let Some(address) = &target.address else { continue };
        if target.start != last_start {
            (last_start, pause) = (target.start, Duration::from_millis(25));
            (next_ready, next_live) =
                (Instant::now(), Instant::now() + Duration::from_millis(live.every_ms));
        }
        let mut finding = Finding { start: target.start, ready: None, live: None };
        if Instant::now() >= next_ready {
            finding.ready = Some(probe::check(ready, address));
            let slow = Duration::from_millis(ready.every_ms);
            pause = if target.was_ready { slow } else { (pause * 2).min(slow) };
            next_ready = Instant::now() + pause;
        }
        if Instant::now() >= next_live {
            finding.live = Some(probe::check(live, address));
            next_live = Instant::now() + Duration::from_millis(live.every_ms);
        }
        if sender.send(finding).is_err() || wake.write_all(&[1]).is_err() {
            return;
        }
    }
}

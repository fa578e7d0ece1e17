//! The instance for a request: chosen at once where one is there, waited for where one is on its way.
//!
//! Invariants: an instance that refuses a connection is out until it accepts one again; while none is ready
//! and one is being started, requests wait, bounded in number, size and time. Not here: which of several
//! ([`super::balance`]).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use seaworthy_base::delivery::Hold;
use tokio::time::Instant;

use super::balance::{self, Question};
use super::{Aim, Failure};
use crate::instance::{Instance, Kept, Service};
use crate::socket::Socket;
use crate::worker::Local;

/// Requests wait this long for an instance that is said to be ready and refuses connections.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// Between two tries of instances that refused.
const AGAIN: Duration = Duration::from_millis(100);

/// The instance for a request that began at `begun`. `refused` are those that this request met closed; it
/// is emptied when all are to be tried again.
pub(super) async fn choose(
    local: &Rc<Local>,
    aim: &Aim<'_>,
    begun: Instant,
    refused: &mut Vec<usize>,
) -> Result<(Arc<Service>, Arc<Instance>), Failure> {
    if let Some(service) = local.current().services.get(aim.service)
        && let Some(found) = pick(local, service, aim, begun, refused)
    {
        return Ok((Arc::clone(service), found));
    }
    Box::pin(wait(local, aim, begun, refused)).await
}

fn pick(
    local: &Local,
    service: &Service,
    aim: &Aim<'_>,
    at: Instant,
    refused: &[usize],
) -> Option<Arc<Instance>> {
    let question = Question {
        balance: &aim.delivery.balance,
        hash: aim.hash,
        wanted: aim.wanted,
        refused,
        now: local.shared.millis(at),
    };
    balance::pick(service, &question, |below| rand::random_range(0..below))
}

/// Waits for an instance, and says why there is none.
async fn wait(
    local: &Rc<Local>,
    aim: &Aim<'_>,
    begun: Instant,
    refused: &mut Vec<usize>,
) -> Result<(Arc<Service>, Arc<Instance>), Failure> {
    let unavailable = |cause: &str| Failure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        cause: cause.to_owned(),
        instance: None,
    };
    let hold = &aim.delivery.hold;
    let mut place = None;
    loop {
        let swapped = local.swapped.notified();
        let snapshot = local.current();
        let Some(found) = snapshot.services.get(aim.service) else {
            return Err(unavailable("the service has no instance"));
        };
        if let Some(instance) = pick(local, found, aim, Instant::now(), refused) {
            return Ok((Arc::clone(found), instance));
        }
        let seconds = hold.age.as_secs_f64();
        let (limit, cause) = match (found.starting, found.ready.is_empty()) {
            (true, _) => (hold.age, format!("no instance became ready within {seconds} s")),
            (false, true) => (Duration::ZERO, "no instance of the service runs".to_owned()),
            (false, false) => (REFUSED_WAIT, "every instance refused the connection".to_owned()),
        };
        let limit = aim.delivery.total.map_or(limit, |total| limit.min(total));
        if begun.elapsed() >= limit {
            return Err(Failure {
                status: if refused.is_empty() {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::BAD_GATEWAY
                },
                ..unavailable(&cause)
            });
        }
        if place.is_none() {
            let taken = Waiting::enter(&found.kept, hold, (aim.size)());
            place = Some(taken.ok_or_else(|| {
                unavailable("too many requests wait for an instance of the service")
            })?);
        }
        drop(snapshot);
        tokio::time::timeout(AGAIN, swapped).await.ok();
        refused.clear();
    }
}

/// Out of rotation until it accepts a connection again.
pub(super) fn take_out(local: &Rc<Local>, instance: &Arc<Instance>) {
    if !instance.load.health.refuse() {
        return;
    }
    let (local, instance) = (Rc::clone(local), Arc::clone(instance));
    tokio::task::spawn_local(async move {
        while !instance.load.retired.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let connected = Socket::connect(&instance.address);
            let connected = tokio::time::timeout(Duration::from_secs(1), connected).await;
            if matches!(connected, Ok(Ok(_))) {
                break;
            }
        }
        instance.load.health.accept(local.shared.millis(Instant::now()));
        local.swapped.notify_waiters();
    });
}

/// A place among those that wait.
struct Waiting {
    kept: Arc<Kept>,
    size: u64,
}

impl Waiting {
    fn enter(kept: &Arc<Kept>, hold: &Hold, size: u64) -> Option<Self> {
        let before = kept.waiting.fetch_add(1, Ordering::Relaxed);
        let bytes = kept.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let place = Self { kept: Arc::clone(kept), size };
        (before < hold.requests && bytes + size <= hold.bytes.0).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.kept.waiting.fetch_sub(1, Ordering::Relaxed);
        self.kept.waiting_bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}

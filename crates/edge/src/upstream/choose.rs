//! Which instance gets a request: two random ones, the less busy one wins.
//!
//! Invariants: an instance that refuses a connection is out until it accepts one again, but when all are
//! out they are tried all the same; while none is ready and one is being started, requests wait, bounded
//! in number and time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::TcpStream;

use super::Failure;
use crate::snapshot::{Instance, Service};
use crate::worker::Local;

/// Requests that wait at the same time.
const MOST_WAITING: u32 = 1000;
/// They wait this long for an instance that is being started…
const WAIT: Duration = Duration::from_secs(30);
/// …and this long for one that is said to be ready and refuses connections.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// Between two tries of instances that refused.
const AGAIN: Duration = Duration::from_millis(100);

/// The instance for a request that began at `begun`. `refused` are those that this request met closed; it is emptied when all
/// are to be tried again.
pub(super) async fn choose(
    local: &Rc<Local>,
    service: &str,
    begun: Instant,
    refused: &mut Vec<SocketAddr>,
) -> Result<(Arc<Service>, Arc<Instance>), Failure> {
    if let Some(service) = local.current().services.get(service)
        && let Some(found) = pick(service, refused)
    {
        return Ok((Arc::clone(service), found));
    }
    wait(local, service, begun, refused).await
}

fn pick(service: &Service, refused: &[SocketAddr]) -> Option<Arc<Instance>> {
    let is_out = |one: &Instance| one.load.out.load(Ordering::Relaxed);
    if let [only] = &service.ready[..] {
        return (!refused.contains(&only.address)).then(|| Arc::clone(only));
    }
    let fits = |one: &&Arc<Instance>| !refused.contains(&one.address) && !is_out(one);
    let usable = service.ready.iter().filter(fits).count();
    if usable == 0 {
        // All are out: one of them may be back.
        return service.ready.iter().find(|one| !refused.contains(&one.address)).cloned();
    }
    let nth = || service.ready.iter().filter(fits).nth(rand::random_range(0..usable));
    let (a, b) = (nth()?, nth()?);
    let busy = |one: &Instance| one.load.in_flight.get();
    Some(Arc::clone(if busy(a) <= busy(b) { a } else { b }))
}

/// Waits for an instance, and says why there is none.
async fn wait(
    local: &Rc<Local>,
    service: &str,
    begun: Instant,
    refused: &mut Vec<SocketAddr>,
) -> Result<(Arc<Service>, Arc<Instance>), Failure> {
    let unavailable = |cause: &str| Failure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        cause: cause.to_owned(),
        instance: None,
    };
    let _place = Waiting::enter(local)
        .ok_or_else(|| unavailable("too many requests wait for the service to start"))?;
    loop {
        let swapped = local.swapped.notified();
        let snapshot = local.current();
        let Some(found) = snapshot.services.get(service) else {
            return Err(unavailable("the service has no instance"));
        };
        if let Some(instance) = pick(found, refused) {
            return Ok((Arc::clone(found), instance));
        }
        let (limit, cause) = match (found.starting, found.ready.is_empty()) {
            (true, _) => (WAIT, "no instance became ready within 30 s"),
            (false, true) => (Duration::ZERO, "no instance of the service runs"),
            (false, false) => (REFUSED_WAIT, "every instance refused the connection"),
        };
        if begun.elapsed() >= limit {
            return Err(Failure {
                status: if refused.is_empty() {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::BAD_GATEWAY
                },
                ..unavailable(cause)
            });
        }
        drop(snapshot);
        tokio::time::timeout(AGAIN, swapped).await.ok();
        refused.clear();
    }
}

/// Out of rotation until it accepts a connection again.
pub(super) fn take_out(local: &Rc<Local>, instance: &Arc<Instance>) {
    if instance.load.out.swap(true, Ordering::Relaxed) {
        return;
    }
    let (local, instance) = (Rc::clone(local), Arc::clone(instance));
    tokio::task::spawn_local(async move {
        while !instance.load.retired.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let connected = TcpStream::connect(instance.address);
            let connected = tokio::time::timeout(Duration::from_secs(1), connected).await;
            if matches!(connected, Ok(Ok(_))) {
                break;
            }
        }
        instance.load.out.store(false, Ordering::Relaxed);
        local.swapped.notify_waiters();
    });
}

/// A place among those that wait.
struct Waiting(Rc<Local>);

impl Waiting {
    fn enter(local: &Rc<Local>) -> Option<Self> {
        let before = local.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(Rc::clone(local));
        (before < MOST_WAITING).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

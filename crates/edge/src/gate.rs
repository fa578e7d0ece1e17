//! A site that is closed for a while: requests wait (hold), or are told to come again (maintenance).
//!
//! Invariants: a hold is bounded in time and number, also while routes change, and ends by itself at its deadline
//! if control never says so; a site without a gate pays one comparison. Not here: who may pass a route (policies).

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::body::ResponseBody;
use crate::model;
use crate::respond;
use crate::route::{Network, RouteError};
use crate::worker::Local;

/// A gate, ready to be asked.
#[derive(Debug)]
pub enum Gate {
    /// Requests wait.
    Hold {
        /// Milliseconds since 1970 at which it ends by itself.
        until_ms: u64,
        /// So many wait at most.
        most: u32,
    },
    /// Requests are answered with 503.
    Maintenance {
        /// The page.
        page: String,
        /// Seconds after which to come again.
        retry_after: u32,
        /// Who may pass.
        allow: Vec<Network>,
    },
}

impl Gate {
    pub(crate) fn build(site: &model::Site) -> Result<Option<Self>, RouteError> {
        Ok(match &site.gate {
            None => None,
            Some(model::Gate::Hold { until_ms, most }) => {
                Some(Self::Hold { until_ms: *until_ms, most: *most })
            }
            Some(model::Gate::Maintenance { page, retry_after, allow }) => {
                let networks = allow.iter().map(|text| text.parse()).collect::<Result<_, _>>();
                Some(Self::Maintenance {
                    page: page.clone(),
                    retry_after: *retry_after,
                    allow: networks.map_err(|source| RouteError::Network {
                        site: site.name.clone(),
                        source,
                    })?,
                })
            }
        })
    }

    /// How it is shut to a client now; not at all to those who may pass, and after its time.
    pub(crate) fn shut(&self, client: IpAddr) -> Option<Shut> {
        match self {
            Self::Hold { until_ms, .. } => left(*until_ms).map(|_| Shut::Held),
            Self::Maintenance { retry_after, allow, .. } => {
                let passes = allow.iter().any(|network| network.contains(client));
                (!passes).then_some(Shut::Maintenance { retry_after: *retry_after })
            }
        }
    }

    /// The answer of a site under maintenance; none for those who may pass.
    fn closed(&self, client: IpAddr) -> Option<Response<ResponseBody>> {
        let Self::Maintenance { page, retry_after, .. } = self else { return None };
        self.shut(client)?;
        let mut response = respond::fixed(503, page, "text/html; charset=utf-8");
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }
}

/// How a gate is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    /// Requests wait.
    Held,
    /// They are answered with 503.
    Maintenance {
        /// Seconds after which to come again.
        retry_after: u32,
    },
}

/// What a gate makes of a request.
#[derive(Debug)]
pub(crate) enum Passage {
    /// It goes on.
    Open,
    /// It was answered.
    Closed(Box<Response<ResponseBody>>),
    /// Too many wait, or it waited too long.
    Refused(StatusCode, &'static str),
}

/// Lets a request through, waits with it, or answers it.
pub(crate) async fn pass(local: &Rc<Local>, host: &str, client: IpAddr) -> Passage {
    let mut place = None;
    loop {
        let swapped = local.swapped.notified();
        let snapshot = local.current();
        let Some(site) = snapshot.table.site(host) else { return Passage::Open };
        let Some(gate) = &site.gate else { return Passage::Open };
        let Gate::Hold { until_ms, most } = gate else {
            let closed = gate.closed(client);
            return closed.map_or(Passage::Open, |answer| Passage::Closed(Box::new(answer)));
        };
        let Some(left) = left(*until_ms) else { return Passage::Open };
        if place.is_none() {
            let taken = Place::take(&local.shared.held, &site.name);
            if taken.number > *most {
                return Passage::Refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the site is held and too many requests wait",
                );
            }
            place = Some(taken);
        }
        drop(snapshot);
        tokio::time::timeout(left, swapped).await.ok();
    }
}

fn left(until_ms: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(until_ms).checked_sub(now).filter(|left| !left.is_zero())
}

/// How many requests wait, by site.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<HashMap<Arc<str>, u32>>);

/// A place among those that wait.
struct Place {
    held: Arc<Held>,
    site: Arc<str>,
    /// So many waited then, with this one.
    number: u32,
}

impl Place {
    fn take(held: &Arc<Held>, site: &Arc<str>) -> Self {
        let mut all = held.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.entry(Arc::clone(site)).or_default();
        *waiting += 1;
        Self { held: Arc::clone(held), site: Arc::clone(site), number: *waiting }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = all.get_mut(&self.site) {
            *waiting -= 1;
            if *waiting == 0 {
                all.remove(&self.site);
            }
        }
    }
}

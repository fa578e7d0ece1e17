//! Whether a site can serve (`to = "@health"`), judged from what the edge itself knows.
//!
//! One function: facts go in ([`Fact`]), each becomes a [`Check`], and the worst of them is the answer's word
//! ([`judge`]). Whoever learns more of a site one day (its databases, its disk) adds facts, and nothing else. Invariants:
//! what cannot be known is not claimed to be well, since it is no fact; names, numbers and reasons are in the checks only,
//! never in the word. Not here: where facts come from and who is told ([`crate::serve`]).

use std::collections::BTreeSet;

use http::HeaderName;
use seaworthy_base::Timestamp;
use serde::Serialize;

use crate::model::{Action, HealthKey, Site};

/// Instances that one check names; of more only the number is told.
const NAMED: usize = 8;

/// How something is; the greater, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// All is as it should be.
    Healthy,
    /// It serves, and somebody should look.
    Degraded,
    /// It does not serve.
    Unhealthy,
}

impl Status {
    /// As the body says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Something that is known of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A service that its routes lead to.
    Service {
        name: String,
        /// Instances that take requests.
        ready: usize,
        /// Others are being started.
        starting: bool,
        /// Those that should take requests and do not, with the reason.
        out: Vec<String>,
        /// Milliseconds for which its circuit breaker stays open; 0 while it is tried again.
        breaker: Option<u64>,
    },
    /// A Redis in which servers count together, and why it is gone.
    Store { name: String, gone: Option<String> },
    /// A way on which the application calls others, and for how many milliseconds its breaker stays open.
    Outgoing { name: String, breaker: Option<u64> },
    /// Requests wait until somebody lets them go on.
    Held,
    /// Visitors are shown a page instead.
    Maintenance,
}

/// One line of the details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) status: Status,
    /// Of a service: how many instances take requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<usize>,
    /// Why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// What the facts come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) status: Status,
    pub(crate) checks: Vec<Check>,
}

/// How a site is; it is as its worst part is, and well where nothing is known of it.
pub(crate) fn judge(facts: Vec<Fact>) -> Report {
    let checks: Vec<Check> = facts.into_iter().map(Fact::check).collect();
    let worst = checks.iter().map(|check| check.status).max();
    Report { status: worst.unwrap_or(Status::Healthy), checks }
}

impl Fact {
    fn check(self) -> Check {
        let plain = |name: String, worst: Status, reason: Option<String>| {
            let status = if reason.is_some() { worst } else { Status::Healthy };
            Check { name, status, ready: None, reason }
        };
        match self {
            Self::Service { name, ready, starting, out, breaker } => {
                service(name, (ready, starting), &out, breaker)
            }
            Self::Store { name, gone } => {
                let reason = gone.map(|why| format!("each server counts for itself: {why}"));
                plain(name, Status::Degraded, reason)
            }
            Self::Outgoing { name, breaker } => plain(name, Status::Degraded, breaker.map(open)),
            Self::Held => {
                let reason = "requests wait: the site is held by hand".to_owned();
                plain("gate".to_owned(), Status::Degraded, Some(reason))
            }
            Self::Maintenance => {
                let reason = "visitors are shown the maintenance page".to_owned();
                plain("gate".to_owned(), Status::Unhealthy, Some(reason))
            }
        }
    }
}

fn service(
    name: String,
    (ready, starting): (usize, bool),
    out: &[String],
    breaker: Option<u64>,
) -> Check {
    let mut reasons: Vec<String> = out.iter().take(NAMED).cloned().collect();
    if out.len() > NAMED {
        reasons.push(format!("{} more", out.len() - NAMED));
    }
    if ready == 0 {
        let coming = starting && out.is_empty();
        let none = if coming { "no instance is ready yet" } else { "no instance is ready" };
        reasons.insert(0, none.to_owned());
    }
    reasons.extend(breaker.map(open));
    let status = match (ready, reasons.is_empty()) {
        (0, _) => Status::Unhealthy,
        (_, false) => Status::Degraded,
        (_, true) => Status::Healthy,
    };
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    Check { name, status, ready: Some(ready), reason }
}

fn open(millis: u64) -> String {
    if millis == 0 {
        return "its circuit breaker lets a few through, to see whether it is back".to_owned();
    }
    format!("its circuit breaker is open for {} s more", millis.div_ceil(1000))
}

/// What is told beside the report to who has the key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) now: Timestamp,
    /// Seconds that this edge has served.
    pub(crate) uptime: u64,
    pub(crate) release: Option<&'a str>,
}

impl Report {
    /// The body for everybody: one word.
    pub(crate) fn word(&self) -> String {
        format!("{{\"status\":\"{}\"}}\n", self.status.word())
    }

    /// The body for who has the key.
    pub(crate) fn details(&self, told: Told<'_>) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            status: Status,
            timestamp: String,
            uptime: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<&'a str>,
            checks: &'a [Check],
        }
        let body = Body {
            status: self.status,
            timestamp: told.now.to_string(),
            uptime: told.uptime,
            version: told.release,
            checks: &self.checks,
        };
        serde_json::to_string(&body).map_or_else(|_| self.word(), |text| text + "\n")
    }

    /// Why it is not well, for the log.
    pub(crate) fn why(&self) -> Option<String> {
        let reason = |check: &Check| Some(format!("{}: {}", check.name, check.reason.as_ref()?));
        let reasons: Vec<String> = self.checks.iter().filter_map(reason).collect();
        let word = self.status.word();
        (self.status > Status::Healthy).then(|| format!("{word}: {}", reasons.join("; ")))
    }
}

/// What of a site is looked at, and who is told.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// Services that its routes lead to: names for people, keys of their endpoints.
    pub(crate) services: Vec<(String, String)>,
    /// The header that carries the key, and the secret that is it.
    pub(crate) key: Option<(HeaderName, String)>,
    pub(crate) release: Option<String>,
}

impl Aggregate {
    /// That of a site which answers for itself anywhere. The error is a header that is none.
    pub(crate) fn build(site: &Site) -> Result<Option<Self>, String> {
        let tried = site.candidate.iter().flat_map(|candidate| &candidate.routes);
        if !site.routes.iter().chain(tried).any(|route| route.action == Action::Health) {
            return Ok(None);
        }
        let keys: BTreeSet<&String> = site
            .routes
            .iter()
            .filter_map(|route| match &route.action {
                Action::Proxy(key) => Some(key),
                _ => None,
            })
            .collect();
        let name = |key: &String| key.split_once('/').map_or(&**key, |(_, name)| name).to_owned();
        let header = |given: &HealthKey| {
            let name = HeaderName::from_bytes(given.header.as_bytes());
            name.map(|name| (name, given.secret.clone())).map_err(|_| given.header.clone())
        };
        Ok(Some(Self {
            services: keys.into_iter().map(|key| (name(key), key.clone())).collect(),
            key: site.health.as_ref().map(header).transpose()?,
            release: site.release.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn web(ready: usize, out: &[&str], breaker: Option<u64>) -> Fact {
        let out = out.iter().map(|text| (*text).to_owned()).collect();
        Fact::Service { name: "web".to_owned(), ready, starting: false, out, breaker }
    }

    #[test]
    fn a_service_is_well_while_all_serve_and_not_at_all_while_nobody_does() {
        for (fact, status, reason) in [
            (web(2, &[], None), Status::Healthy, None),
            (web(1, &["1@1: it refused"], None), Status::Degraded, Some("1@1: it refused")),
            (
                web(2, &[], Some(4_200)),
                Status::Degraded,
                Some("its circuit breaker is open for 5 s more"),
            ),
            (web(0, &[], None), Status::Unhealthy, Some("no instance is ready")),
            (
                web(0, &["1@1: it refused"], None),
                Status::Unhealthy,
                Some("no instance is ready; 1@1: it refused"),
            ),
        ] {
            let told = format!("{fact:?}");
            let report = judge(vec![fact]);
            assert_eq!(report.status, status, "{told}");
            assert_eq!(report.checks[0].reason.as_deref(), reason, "{told}");
        }
        let starting = Fact::Service {
            name: "web".to_owned(),
            ready: 0,
            starting: true,
            out: Vec::new(),
            breaker: None,
        };
        assert_eq!(
            judge(vec![starting]).checks[0].reason.as_deref(),
            Some("no instance is ready yet")
        );
    }

    #[test]
    fn what_is_missed_but_not_vital_degrades() {
        let name = || "x".to_owned();
        for (fact, status) in [
            (Fact::Store { name: name(), gone: None }, Status::Healthy),
            (Fact::Store { name: name(), gone: Some("refused".to_owned()) }, Status::Degraded),
            (Fact::Outgoing { name: name(), breaker: None }, Status::Healthy),
            (Fact::Outgoing { name: name(), breaker: Some(0) }, Status::Degraded),
            (Fact::Held, Status::Degraded),
            (Fact::Maintenance, Status::Unhealthy),
        ] {
            let report = judge(vec![web(1, &[], None), fact.clone()]);
            assert_eq!(report.status, status, "{fact:?}");
            assert_eq!(report.why().is_some(), status > Status::Healthy);
        }
        assert_eq!(judge(Vec::new()).status, Status::Healthy);
    }

    #[test]
    fn the_word_alone_tells_nothing_else_and_the_details_name_all() {
        let report = judge(vec![web(1, &["web/1@7: it refused"], None)]);
        assert_eq!(report.word(), "{\"status\":\"degraded\"}\n");
        let told = Told { now: Timestamp(0), uptime: 86_400, release: Some("r42-1a2b3c4d") };
        assert_eq!(
            report.details(told),
            "{\"status\":\"degraded\",\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"uptime\":86400,\"version\":\"r42-1a2b3c4d\",\
             \"checks\":[{\"name\":\"web\",\"status\":\"degraded\",\"ready\":1,\"reason\":\"web/1@7: it refused\"}]}\n"
        );
        let many: Vec<String> = (0..20).map(|one| format!("{one}: it refused")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let reason = judge(vec![web(1, &many, None)]).checks[0].reason.clone().unwrap();
        assert!(reason.ends_with("7: it refused; 12 more"), "{reason}");
    }

    proptest! {
        #[test]
        fn it_is_as_its_worst_part_is_in_whatever_order(
            services in prop::collection::vec((0_usize..3, 0_usize..3, any::<bool>()), 0..6),
        ) {
            let facts: Vec<Fact> = services
                .iter()
                .map(|(ready, out, open)| web(*ready, &vec!["x"; *out], open.then_some(1)))
                .collect();
            let expected = if services.iter().any(|(ready, ..)| *ready == 0) {
                Status::Unhealthy
            } else if services.iter().any(|(_, out, open)| *out > 0 || *open) {
                Status::Degraded
            } else {
                Status::Healthy
            };
            let (forth, mut back) = (judge(facts.clone()), facts);
            back.reverse();
            prop_assert_eq!(forth.status, expected);
            prop_assert_eq!(judge(back).status, expected);
            prop_assert!(forth.checks.iter().all(|check| check.reason.is_some() == (check.status > Status::Healthy)));
        }
    }
}

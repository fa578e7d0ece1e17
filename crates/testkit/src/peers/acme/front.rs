//! What stands before Pebble for what the distribution's Pebble does not know: renewal information (RFC 9773) and
//! profiles (draft-ietf-acme-profiles).
//!
//! TLS ends here, under the authority's own certificate, and begins again. The host stays what the client wrote: clients
//! sign it (RFC 8555 § 6.4), and so everything that Pebble names leads here, too. Invariants: only the directory, renewal
//! information and new orders are touched; all else is the real Pebble's. Not here: what a test makes of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Authority;
use crate::Client;
use crate::peers::{Call, Outside, Say};

/// Where it answers when to renew.
const RENEWAL: &str = "/renewal-info";
/// Headers that belong to one connection only.
const OF_CONNECTION: [&str; 4] = ["content-length", "connection", "transfer-encoding", "date"];

/// What is answered to the question when to renew.
#[derive(Debug, Clone, Default)]
pub enum Renewal {
    /// The directory does not name it, as with most authorities.
    #[default]
    Absent,
    /// A window, in seconds from now, and further header lines.
    Window(i64, i64, &'static str),
    /// Anything.
    Say(u16, &'static str, &'static str),
    /// Nothing, until something else is to be answered.
    Hang,
}

/// An order that was asked for.
#[derive(Debug, Clone)]
pub struct Ordered {
    /// With what it was answered.
    pub status: u16,
    /// What was asked for.
    pub order: Value,
}

#[derive(Debug, Default)]
struct Rules {
    renewal: Renewal,
    /// Where windows are explained.
    explanation: Option<String>,
    /// Profiles that the directory names.
    offered: Vec<String>,
    /// Those that are given.
    given: Vec<String>,
    /// Whether certificates may be replaced.
    is_replaced: bool,
    /// As whom CAA records name it.
    identity: Option<&'static str>,
    /// Header lines with which every order is refused for coming too often.
    too_many: Option<&'static str>,
    /// Certificates that were replaced.
    replaced: BTreeSet<String>,
    orders: Vec<Ordered>,
    asked: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Rules>,
    changed: Condvar,
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running one; it goes on until the process ends.
#[derive(Debug)]
pub struct Front {
    shared: Arc<Shared>,
    /// Its directory's URL.
    pub directory: String,
}

impl Front {
    /// Begins to stand before that Pebble, and adds nothing yet.
    #[track_caller]
    pub fn before(pebble: &Authority) -> Self {
        let behind = pebble.client(pebble.port);
        let known = behind.get("/dir").json();
        let path = |name: &str| {
            let url = known[name].as_str().expect("a URL");
            url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a path")
        };
        let (shared, new_order) = (Arc::<Shared>::default(), path("newOrder"));
        let of_server = Arc::clone(&shared);
        let server = Outside::start(Some(pebble.place.path()), move |call| {
            let host = call.header("host").unwrap_or_default();
            match call.target.strip_prefix(RENEWAL) {
                Some(id) => of_server.renewal(id.trim_start_matches('/')),
                None if call.target == "/dir" => of_server.directory(&pass(&behind, call), host),
                None if call.target == new_order => of_server.order(call, || pass(&behind, call)),
                None => pass(&behind, call),
            }
        });
        let directory = format!("https://{}/dir", server.address());
        Self { shared, directory }
    }

    /// From now on this is answered to the question when to renew.
    pub fn renewals(&self, renewal: Renewal) {
        self.shared.rules().renewal = renewal;
        self.shared.changed.notify_all();
    }

    /// From now on windows name this page as their explanation.
    pub fn explains(&self, page: &str) {
        self.shared.rules().explanation = Some(page.to_owned());
    }

    /// Profiles that the directory names, and those of them that are given.
    pub fn profiles(&self, offered: &[&str], given: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut rules = self.shared.rules();
        (rules.offered, rules.given) = (owned(offered), owned(given));
    }

    /// From now on every certificate counts as replaced already.
    pub fn replaces_nothing(&self) {
        self.shared.rules().is_replaced = true;
    }

    /// From now on the directory says as whom CAA records name this authority.
    pub fn is_called(&self, identity: &'static str) {
        self.shared.rules().identity = Some(identity);
    }

    /// From now on orders come too often, which is said with these header lines; or do not any more.
    pub fn limits(&self, headers: Option<&'static str>) {
        self.shared.rules().too_many = headers;
    }

    /// The orders so far that were not refused for their nonce.
    pub fn orders(&self) -> Vec<Ordered> {
        self.shared.rules().orders.clone()
    }

    /// The certificates (RFC 9773 § 4.1) for which somebody asked when to renew them, in the order of the questions.
    pub fn asked(&self) -> Vec<String> {
        self.shared.rules().asked.clone()
    }
}

/// Has Pebble answer.
fn pass(behind: &Client, call: &Call) -> Say {
    let kept = |name: &str| !OF_CONNECTION.contains(&name);
    let headers = call.headers.iter().filter(|(name, _)| kept(name));
    let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = behind.send(&call.method, &call.target, &headers, &call.body);
    let Ok(answer) = answer else { return Say(502, String::new(), String::new()) };
    let back = answer.headers.iter().filter(|(name, _)| kept(name));
    let lines: Vec<String> = back.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    Say(answer.status, lines.concat(), answer.text())
}

fn problem(status: u16, kind: &str, detail: &str) -> Say {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({ "type": kind, "detail": detail, "status": status });
    Say(status, "Content-Type: application/problem+json\r\n".to_owned(), body.to_string())
}

fn from_now(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let at = OffsetDateTime::from_unix_timestamp(now.as_secs() as i64 + seconds).expect("a time");
    at.format(&Rfc3339).expect("a date")
}

impl Shared {
    fn directory(&self, answer: &Say, host: &str) -> Say {
        let Say(status, headers, body) = answer;
        let rules = self.rules();
        let mut document: Value = serde_json::from_str(body).expect("a directory");
        if !matches!(rules.renewal, Renewal::Absent) {
            document["renewalInfo"] = format!("https://{host}{RENEWAL}").into();
        }
        for name in &rules.offered {
            document["meta"]["profiles"][name] = format!("https://{host}/about/{name}").into();
        }
        if let Some(identity) = rules.identity {
            document["meta"]["caaIdentities"] = json!([identity]);
        }
        Say(*status, headers.clone(), document.to_string())
    }

    fn renewal(&self, id: &str) -> Say {
        let mut rules = self.rules();
        rules.asked.push(id.to_owned());
        loop {
            match rules.renewal {
                Renewal::Absent => return problem(404, "malformed", "there is no such thing"),
                Renewal::Window(start, end, headers) => {
                    let window = json!({ "start": from_now(start), "end": from_now(end) });
                    let mut body = json!({ "suggestedWindow": window });
                    if let Some(page) = &rules.explanation {
                        body["explanationURL"] = page.as_str().into();
                    }
                    return Say(200, headers.to_owned(), body.to_string());
                }
                Renewal::Say(status, headers, body) => {
                    return Say(status, headers.to_owned(), body.to_owned());
                }
                Renewal::Hang => {
                    let waited = self.changed.wait(rules);
                    rules = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn order(&self, call: &Call, pass: impl FnOnce() -> Say) -> Say {
        let signed: Value = serde_json::from_slice(&call.body).expect("a signed message");
        let payload = signed["payload"].as_str().expect("a payload");
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).expect("base64url");
        let order: Value = serde_json::from_slice(&payload).expect("an order");
        let Say(status, headers, body) = self.refusal(&order).unwrap_or_else(pass);
        let mut answer: Value = serde_json::from_str(&body).expect("an answer in JSON");
        let mut rules = self.rules();
        if status == 201 {
            // What was taken is said again (RFC 9773 § 5).
            for name in ["replaces", "profile"] {
                answer[name] = order[name].clone();
            }
            rules.replaced.extend(order["replaces"].as_str().map(str::to_owned));
        }
        if answer["type"] != "urn:ietf:params:acme:error:badNonce" {
            rules.orders.push(Ordered { status, order });
        }
        Say(status, headers, answer.to_string())
    }

    fn refusal(&self, order: &Value) -> Option<Say> {
        let rules = self.rules();
        if let Some(headers) = rules.too_many {
            let Say(_, usual, body) = problem(429, "rateLimited", "too many orders of these names");
            return Some(Say(429, format!("{usual}{headers}"), body));
        }
        let profile = order["profile"].as_str();
        if let Some(profile) = profile.filter(|name| !rules.given.iter().any(|one| one == name)) {
            let detail = format!("the profile {profile} is not given any more");
            return Some(problem(400, "invalidProfile", &detail));
        }
        let replaced = order["replaces"].as_str();
        let is_again = replaced.is_some_and(|id| rules.is_replaced || rules.replaced.contains(id));
        is_again.then(|| problem(409, "alreadyReplaced", "this one was replaced already"))
    }
}

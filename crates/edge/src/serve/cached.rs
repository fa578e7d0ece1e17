//! A request that may be answered by what is kept, and an answer that may be kept.
//!
//! What may be is decided in [`crate::cache`]; here the application is asked where that says so.
//! Invariants: of many who ask for the same at once one asks the application, the others wait for it, but
//! not longer than for an answer of their own, and not for how fast its client reads ([`crate::ahead`]); when
//! that one goes away, one of the others takes its place; when the application fails, what is kept helps out
//! only where it was said to; a successful change of a resource forgets it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LOCATION, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Body as _;
use seaworthy_base::policy::Cache as Rule;
use tokio::time::Instant;

use super::{Client, Record, Refusal, proxy, record, refuse};
use crate::ahead;
use crate::body::{ClientBody, Content, ResponseBody};
use crate::cache::{self, Asked, Fate, Kept, Key, Leader, Moment, Part, Use, now_ms};
use crate::candidate;
use crate::shape;
use crate::watch::within;
use crate::worker::Local;

type Answer = (Response<ResponseBody>, Option<SocketAddr>);

/// One request on its way through the cache.
struct Way<'a> {
    local: &'a Rc<Local>,
    client: &'a Arc<Client>,
    id: &'a HeaderValue,
    rule: &'a Rule,
    key: Key,
    asked: Asked,
}

/// As [`proxy::forward`], with the cache in between.
pub(super) async fn forward(
    local: &Rc<Local>,
    client: &Arc<Client>,
    mut parts: Parts,
    body: ClientBody,
    id: &HeaderValue,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let Some(route) = record.route.clone() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request without a route");
    };
    if let Some(rule) = &route.policy.cache {
        let asked = cache::asked(&parts.method, &parts.headers);
        let may_use = asked.may_use
            && body.is_end_stream()
            && !proxy::wants_upgrade(&parts)
            && !is_asked_directly(&parts.headers);
        if may_use && let Some(key) = key_of(&parts, record) {
            let way = Way { local, client, id, rule, key, asked };
            return way.read(parts, body, record).await;
        }
    }
    let changed = if record.may_change_kept() { key_of(&parts, record) } else { None };
    let answer = proxy::forward(local, client, &mut parts, body, id, record).await?;
    if let Some(key) = changed {
        forget(local, &key, record, &answer.0);
    }
    Ok(answer)
}

/// Whether the application itself is to be heard, as before and after a switch.
fn is_asked_directly(headers: &HeaderMap) -> bool {
    headers.contains_key(candidate::HEADER)
}

/// A request that changed something: what is kept of it, and of the places that the answer names, is forgotten
/// (RFC 9111 § 4.4), of both releases where one is being tried. By whichever route it came: another one may keep the same path.
fn forget(local: &Local, key: &Key, record: &Record, response: &Response<ResponseBody>) {
    let status = response.status();
    if !status.is_success() && !status.is_redirection() {
        return;
    }
    let Some(site) = &record.site else { return };
    let named = [LOCATION, CONTENT_LOCATION].map(|name| {
        let place = response.headers().get(name)?.to_str().ok()?;
        own_target(key, place)
    });
    let places = named.into_iter().flatten().map(Box::from).chain([key.target.clone()]);
    let tried = site.candidate.as_ref().map(|candidate| &candidate.release);
    for target in places {
        for release in [Some(&site.release), tried].into_iter().flatten().cloned() {
            let target = target.clone();
            local.shared.cache.invalidate(&Key { release, target, ..key.clone() });
        }
    }
}

/// Path and query of a place, if it is on the same host.
fn own_target(key: &Key, place: &str) -> Option<String> {
    let uri: http::Uri = place.parse().ok()?;
    let authority = uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(&key.host)) {
        return None;
    }
    let target = uri.path_and_query()?.as_str();
    if target.starts_with('/') {
        return Some(target.to_owned());
    }
    let folder = key.target.split('?').next().unwrap_or_default();
    Some(format!("{}/{target}", folder.rsplit_once('/').map_or("", |(folder, _)| folder)))
}

/// The host with its port, as the application is told it: what it writes into its pages is kept for who
/// asks by the same words only.
fn key_of(parts: &Parts, record: &Record) -> Option<Key> {
    let target = record.uri.path_and_query()?.as_str();
    let named = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))?;
    let site = record.site.as_ref()?;
    let tried = site.candidate.as_ref().filter(|_| record.tried);
    Some(Key {
        site: Arc::clone(&site.name),
        release: Arc::clone(tried.map_or(&site.release, |candidate| &candidate.release)),
        secure: record.secure,
        port: record.port,
        host: host.to_ascii_lowercase().into(),
        target: target.into(),
    })
}

impl Way<'_> {
    fn cache(&self) -> &Arc<cache::Cache> {
        &self.local.shared.cache
    }

    /// A request that reads something.
    async fn read(
        &self,
        parts: Parts,
        body: ClientBody,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        let (found, leader) = self.find(&parts.headers, record).await;
        let conditions = cache::conditions(&parts.headers);
        let use_kept = |kept: &Kept, how: &str| {
            let response = cache::answer(kept, &parts.method, &conditions, now_ms(), how);
            Ok((response, kept.from))
        };
        match found {
            Use::Fresh(kept) => use_kept(&kept, "hit"),
            Use::WhileFetching(kept) => {
                self.refresh_aside(&parts, record, &kept);
                use_kept(&kept, "hit")
            }
            Use::Pass | Use::Nothing | Use::Stale(_) if self.asked.only_if_cached => {
                refuse(StatusCode::GATEWAY_TIMEOUT, "only-if-cached, and nothing is kept")
            }
            Use::Stale(kept) => self.revalidate(parts, body, record, (&kept, leader)).await,
            Use::Pass | Use::Nothing => self.fetch(parts, body, record, leader).await,
        }
    }

    /// What is kept, once nobody else is fetching it; with a leader where it is to be fetched for all.
    async fn find(&self, headers: &HeaderMap, record: &Record) -> (Use, Option<Leader>) {
        let look = || self.cache().find(&self.key, headers, now_ms());
        let mut found = look();
        if !self.asked.may_keep || self.asked.only_if_cached {
            return (found, None);
        }
        let patience = record.route.as_ref().map_or(0, |route| route.settings.response_ms);
        let end = Instant::now() + Duration::from_millis(patience);
        while matches!(found, Use::Nothing | Use::Stale(_)) {
            match self.cache().join(&self.key, now_ms()) {
                Part::Leader(leader) => return (found, Some(leader)),
                Part::Follower(follower) => {
                    let left = end.saturating_duration_since(Instant::now());
                    let waited = within(&self.local.watch, left, follower.wait()).await;
                    found = look();
                    if waited != Some(true) {
                        break;
                    }
                }
                Part::Alone => break,
            }
        }
        (found, None)
    }

    async fn ask(
        &self,
        mut parts: Parts,
        body: ClientBody,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        proxy::forward(self.local, self.client, &mut parts, body, self.id, record).await
    }

    /// Asks the application, and keeps what it says where that may be.
    async fn fetch(
        &self,
        parts: Parts,
        body: ClientBody,
        record: &mut Record,
        leader: Option<Leader>,
    ) -> Result<Answer, Refusal> {
        let (request, moment) = (parts.headers.clone(), self.cache().moment(&self.key));
        match self.ask(parts, body, record).await {
            Ok((response, from)) => {
                Ok((self.keep(response, from, (&request, moment), leader), from))
            }
            Err(refusal) => {
                through(leader);
                Err(refusal)
            }
        }
    }

    fn keep(
        &self,
        mut response: Response<ResponseBody>,
        from: Option<SocketAddr>,
        (request, moment): (&HeaderMap, Moment),
        leader: Option<Leader>,
    ) -> Response<ResponseBody> {
        let head = (response.status(), response.headers());
        let max = usize::try_from(self.rule.max_object.0).unwrap_or(usize::MAX);
        let fits = record::length(response.headers()) <= max as u64;
        let kept = cache::may_keep(self.rule, self.asked, request, head, now_ms());
        let kept = kept.filter(|_| fits);
        cache::mark(response.headers_mut(), kept.is_some());
        let Some(kept) = kept else {
            // What has failed, or was said of what the client has, says nothing of the next answer.
            let status = response.status();
            let is_answer = !status.is_server_error() && status != StatusCode::NOT_MODIFIED;
            match leader {
                Some(leader) if is_answer => leader.pass(now_ms()),
                leader => through(leader),
            }
            // Of somebody's own answer nothing follows for the others.
            if self.asked.may_keep && is_answer && self.asked.is_anonymous() {
                self.cache().supersede(&self.key, request);
            }
            return response;
        };
        let kept = kept.came_from(from);
        let response = shape::keep(
            response,
            shape::Keeping {
                cache: Arc::clone(self.cache()),
                key: self.key.clone(),
                kept: Some(kept),
                body: Vec::new(),
                length: None,
                max,
                moment,
            },
            &self.local.rooms,
        );
        let Some(leader) = leader else { return response };
        let purse = &self.local.purse;
        response.map(|body| ahead::read(body.into_content(), purse, leader, max).into())
    }

    /// Asks whether what is kept still holds.
    async fn revalidate(
        &self,
        mut parts: Parts,
        body: ClientBody,
        record: &mut Record,
        (kept, leader): (&Kept, Option<Leader>),
    ) -> Result<Answer, Refusal> {
        let (method, conditions) = (parts.method.clone(), cache::conditions(&parts.headers));
        let (request, moment) = (parts.headers.clone(), self.cache().moment(&self.key));
        let conditional = self.asked.may_keep && kept.make_conditional(&mut parts.headers);
        let stale =
            |how: &str| (cache::answer(kept, &method, &conditions, now_ms(), how), kept.from);
        match self.ask(parts, body, record).await {
            Ok((response, from)) => {
                let status = response.status();
                if status == StatusCode::NOT_MODIFIED && conditional {
                    let (fresh, fate) = cache::refreshed(
                        self.rule,
                        kept,
                        (self.asked, &request),
                        response.headers(),
                        now_ms(),
                    );
                    let answer = cache::answer(
                        &fresh,
                        &method,
                        &conditions,
                        now_ms(),
                        "hit; detail=revalidated",
                    );
                    match fate {
                        Fate::Refresh => self.cache().keep(&self.key, fresh, moment),
                        Fate::Stay => {}
                        Fate::Forget => self.cache().invalidate(&self.key),
                    }
                    through(leader);
                    return Ok((answer, from));
                }
                if status.is_server_error() && kept.serves_errors(now_ms()) {
                    record.cause = Some(format!(
                        "the application said {}: a kept answer was used",
                        status.as_u16()
                    ));
                    through(leader);
                    return Ok(stale("hit; detail=stale-if-error"));
                }
                Ok((self.keep(response, from, (&request, moment), leader), from))
            }
            Err((status, cause)) if status.is_server_error() && kept.serves_errors(now_ms()) => {
                through(leader);
                record.cause = Some(format!("{cause}: a kept answer was used"));
                Ok(stale("hit; detail=stale-if-error"))
            }
            Err(refusal) => {
                through(leader);
                Err(refusal)
            }
        }
    }

    /// Fetches a newer answer while the kept one is being used, once at a time.
    fn refresh_aside(&self, parts: &Parts, record: &Record, kept: &Arc<Kept>) {
        let Part::Leader(leader) = self.cache().join(&self.key, now_ms()) else { return };
        let mut again = http::Request::new(()).into_parts().0;
        (again.uri, again.headers) = (parts.uri.clone(), parts.headers.clone());
        cache::conditions(&again.headers).keys().for_each(|name| drop(again.headers.remove(name)));
        let (local, client, id) = (Rc::clone(self.local), Arc::clone(self.client), self.id.clone());
        let (rule, key) = (self.rule.clone(), self.key.clone());
        let asked = self.asked.for_refresh();
        let mut aside = record.aside(&client, &again);
        let kept = Arc::clone(kept);
        tokio::task::spawn_local(async move {
            let way = Way { local: &local, client: &client, id: &id, rule: &rule, key, asked };
            let answer =
                way.revalidate(again, ClientBody::Empty, &mut aside, (&kept, Some(leader))).await;
            if let Ok((response, _)) = answer {
                drain(response.into_body().into_content()).await;
            }
        });
    }
}

/// It is known what comes: whoever waits is told.
fn through(leader: Option<Leader>) {
    if let Some(leader) = leader {
        leader.through();
    }
}

/// Reads a body to its end, so that it is kept.
async fn drain(mut content: Content) {
    loop {
        match std::future::poll_fn(|context| content.poll_frame(context)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}

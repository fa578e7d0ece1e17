//! A route's policy with everything prepared that a request would otherwise do again.

use std::sync::Arc;

use seaworthy_base::policy::{Cache, Key, Policy, Rewrite};

use super::access::{Access, Maintenance};
use super::auth::Auth;
use super::cors::Cors;
use super::csrf::Csrf;
use super::headers::Browser;
use super::limit::Limit;
use super::lockout::Lockout;
use crate::model;
use crate::route::{Network, NetworkError, Rules};
use crate::shape::Shape;

/// What a policy belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) site: &'a model::Site,
    /// The parsed header rules of the route.
    pub(crate) rules: &'a Rules,
    /// The route serves files.
    pub(crate) is_files: bool,
}

/// One route's policy.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    /// Nothing is demanded of a request.
    pub(crate) asks_nothing: bool,
    /// There are limits or lockouts.
    pub(crate) counts: bool,
    /// Somebody is kept out or counted who asks for the path, whoever sends him.
    pub(crate) is_guard: bool,
    /// Some of them count with other servers too.
    pub(crate) is_stored: bool,
    /// Some of them count by a field of the body.
    pub(crate) needs_body: bool,
    /// By which fields.
    pub(crate) body_keys: Vec<Key>,
    pub(crate) access: Option<Access>,
    pub(crate) block_query: Vec<String>,
    pub(crate) maintenance: Option<Maintenance>,
    pub(crate) lockouts: Vec<Arc<Lockout>>,
    /// Those that count by the head come first.
    limits: Vec<Limit>,
    by_head: usize,
    pub(crate) cors: Option<Cors>,
    pub(crate) csrf: Option<Csrf>,
    pub(crate) auth: Option<Auth>,
    pub(crate) cache: Option<Cache>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) browser: Browser,
    pub(crate) shape: Shape,
    /// The way to the instance is more than passing on.
    pub(crate) is_guarded: bool,
}

/// Why a policy cannot be served: a header or origin that cannot be sent, or a network that is none.
#[derive(Debug)]
pub(crate) enum PolicyError {
    Header(String),
    Network(NetworkError),
}

impl From<NetworkError> for PolicyError {
    fn from(error: NetworkError) -> Self {
        Self::Network(error)
    }
}

/// Parses a list of networks.
pub(super) fn networks(texts: &[String]) -> Result<Vec<Network>, NetworkError> {
    texts.iter().map(|text| text.parse()).collect()
}

impl CompiledPolicy {
    pub(crate) fn build(policy: &Policy, scope: Scope<'_>) -> Result<Self, PolicyError> {
        let access = Access::build(policy)?;
        let maintenance = policy.maintenance.as_ref().map(Maintenance::build).transpose()?;
        let of_site = &scope.site.name;
        let lockouts: Vec<_> =
            policy.lockouts.iter().map(|one| Arc::new(Lockout::build(of_site, one))).collect();
        let mut limits: Vec<_> =
            policy.limits.iter().map(|one| Limit::build(of_site, one)).collect();
        limits.sort_by_key(|limit| limit.by.needs_body());
        let by_head = limits.iter().filter(|limit| !limit.by.needs_body()).count();
        let of_limits = limits.iter().map(|limit| &limit.by);
        let of_lockouts = lockouts.iter().flat_map(|lockout| lockout.by());
        let mut body_keys: Vec<Key> = Vec::new();
        for key in of_limits.chain(of_lockouts).filter(|key| key.needs_body()) {
            if !body_keys.contains(key) {
                body_keys.push(key.clone());
            }
        }
        let needs_body = !body_keys.is_empty();
        let is_stored = limits.iter().any(|limit| limit.store.is_some())
            || lockouts.iter().any(|lockout| lockout.store.is_some());
        let counts = !limits.is_empty() || !lockouts.is_empty();
        let cors =
            policy.cors.as_ref().map(Cors::build).transpose().map_err(PolicyError::Header)?;
        let csrf = policy.csrf.as_ref().map(Csrf::build);
        let auth = policy.auth.as_ref().map(|auth| Auth::build(of_site, auth));
        let reads_answer = lockouts.iter().any(|lockout| lockout.has_answer_text());
        let browser = Browser::build(policy, scope.rules).map_err(PolicyError::Header)?;
        let is_guard = access.is_some()
            || maintenance.is_some()
            || !policy.block_query.is_empty()
            || counts
            || auth.is_some();
        let asks_nothing = !is_guard && cors.is_none() && csrf.is_none();
        Ok(Self {
            asks_nothing,
            counts,
            is_guard,
            is_stored,
            needs_body,
            body_keys,
            access,
            block_query: policy.block_query.clone(),
            maintenance,
            lockouts,
            limits,
            by_head,
            cors,
            csrf,
            auth,
            cache: policy.cache.clone(),
            rewrite: policy.rewrite.clone(),
            shape: Shape::build(policy, &browser, scope.is_files, reads_answer),
            browser,
            is_guarded: needs_body || reads_answer || policy.cache.is_some(),
        })
    }

    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    pub(crate) fn limits_by_head(&self) -> &[Limit] {
        &self.limits[..self.by_head]
    }

    pub(crate) fn limits_by_body(&self) -> &[Limit] {
        &self.limits[self.by_head..]
    }
}

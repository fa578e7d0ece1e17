//! How much a manifest may hold. More is no manifest but an accident or an attack, and would make reading,
//! the edge's configuration or its memory grow beyond any use.
//!
//! Invariant: with these limits the work of all checks together stays below a second, and what the edge
//! gets below its 64 MiB, whatever the file says. Raising one means looking at who multiplies by it.

/// The file, in bytes: the longest that people write has ten thousand.
pub(crate) const FILE: u64 = 1 << 20;
/// Lines that begin with `[`: opening a table costs the parser a walk through its siblings.
pub(crate) const TABLES: usize = 5000;
/// Services of a site.
pub(crate) const SERVICES: usize = 200;
/// `[[route]]` tables: each is compared with each.
pub(crate) const ROUTES: usize = 500;
/// Path patterns of all routes: each is compared with each.
pub(crate) const PATHS: usize = 1000;
/// Bytes of one path pattern.
pub(crate) const PATH: usize = 512;
/// Hosts, methods, networks and addresses in one list; a certificate has room for a hundred names.
pub(crate) const LIST: usize = 100;
/// Header rules of all routes: a route may inherit them all.
pub(crate) const HEADER_RULES: usize = 500;
/// Limits and lockouts of all routes: a route may inherit them all.
pub(crate) const POLICY_RULES: usize = 200;
/// Entries of one list of a policy: origins, headers, limits.
pub(crate) const POLICY_LIST: usize = 20;
/// Rules of one `cache_control`.
pub(crate) const CACHE_RULES: usize = 100;
/// Bytes of a fixed answer: a thousand paths may inherit it.
pub(crate) const BODY: usize = 16 << 10;
/// Upstreams of one service.
pub(crate) const UPSTREAMS: usize = 200;

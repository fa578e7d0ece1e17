//! What of a manifest may be shown: an allow-list, because secrets stand where nobody expects them.
//!
//! Why not a list of words that sound secret: a password in `run`, in a comment, in a list, behind a
//! dotted key or on the second line of a string has no such word on its line. Here a value is shown only
//! if its key stands in [`SHOWN`], it is written on one line, and it looks like a path, number, host or
//! name. Keys are shown as far as they are plain words. Invariants: every other value, every comment and
//! whatever the TOML grammar did not understand is hidden, its length too; a file with one syntax error
//! shows no value at all, since one quote too many turns values into keys. Not here: how a line is drawn
//! ([`crate::excerpt`]).

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, Key, Kind};

/// Stands for what is hidden.
pub(crate) const HIDDEN: &str = "…";

/// The longest literal that is shown, in bytes: host names end at 253, paths of people far below.
const MAX_SHOWN: usize = 120;

/// The longest key that is shown.
const MAX_KEY: usize = 64;

/// Keys whose values are shown; `*` is any one key (a name, never an unknown word). Whatever could hold a secret must not stand here:
/// commands, environment, headers, bodies, places of secrets.
const SHOWN: &[&str] = &[
    "site",
    "domains",
    "redirect_domains",
    "tls.mode",
    "tls.cert",
    "tls.min",
    "tls.acme.challenge",
    "tls.acme.directories",
    "tls.acme.profile",
    "tls.acme.resolvers",
    "tls.acme.dns.wait",
    "tls.acme.dns.rfc2136.server",
    "tls.acme.dns.rfc2136.zone",
    "tls.acme.dns.rfc2136.algorithm",
    "listen.http",
    "listen.https",
    "listen.http3",
    "listen.trusted_proxies",
    "secrets.file",
    "secrets.dir",
    "service.*.static",
    "service.*.upstreams",
    "service.*.dir",
    "service.*.shared",
    "service.*.instances",
    "service.*.port",
    "service.*.ports.*",
    "service.*.health",
    "service.*.health.path",
    "service.*.health.ready",
    "service.*.health.live",
    "service.*.health.ready.path",
    "service.*.health.live.path",
    "service.*.health.ready.status",
    "service.*.health.live.status",
    "service.*.health.ready.every",
    "service.*.health.live.every",
    "service.*.health.ready.timeout",
    "service.*.health.live.timeout",
    "service.*.health.ready.failures",
    "service.*.health.live.failures",
    "service.*.health.ready.start",
    "service.*.health.live.start",
    "service.*.after",
    "service.*.user",
    "service.*.memory",
    "service.*.memory.max",
    "service.*.memory.restart",
    "service.*.cpu",
    "service.*.nofile",
    "service.*.restart.backoff_min",
    "service.*.restart.backoff_max",
    "service.*.restart.crashes",
    "service.*.restart.within",
    "service.*.stop.signal",
    "service.*.stop.grace",
    "service.*.logs.max_size",
    "service.*.logs.keep",
    "service.*.logs.days",
    "service.*.spa",
    "service.*.cache_control.*",
    "route.paths",
    "route.hosts",
    "route.methods",
    "route.to",
    "route.block",
    "route.redirect",
    "route.redirect.to",
    "route.redirect.status",
    "route.respond.status",
    "route.respond.content_type",
    "route.priority",
    "route.body_limit",
    "route.timeout.connect",
    "route.timeout.response",
    "route.timeout.idle",
    "route.stream",
    "route.limit",
    "route.allow_from",
    "route.deny_from",
    "route.cors.origins",
    "route.cors.methods",
    "route.cors.headers",
    "route.cors.expose",
    "route.cors.credentials",
    "route.cors.max_age",
    "route.csrf",
    "route.csrf.allow",
    "route.lockout.failures",
    "route.lockout.within",
    "route.lockout.for",
    "route.lockout.by",
    "route.lockout.match.status",
    "route.block.query",
    "route.maintenance.retry_after",
    "route.maintenance.allow_from",
    "route.rewrite.strip",
    "route.rewrite.prefix",
    "route.cookies.secure",
    "route.cookies.http_only",
    "route.cookies.same_site",
    "route.compress",
    "route.compress.min",
    "route.compress.types",
    "route.cache",
    "route.cache.ttl",
    "route.cache.max_object",
    "route.log.sample",
    "limit.*.rate",
    "limit.*.store",
    "route.lockout.store",
    "outgoing.*.concurrency",
    "outgoing.*.rate",
    "outgoing.*.retry.times",
    "outgoing.*.retry.for",
    "outgoing.*.hold.calls",
    "outgoing.*.hold.for",
    "outgoing.*.ca",
    "limit.*.burst",
    "limit.*.by",
    "identity.user",
    "listen.proxy_protocol",
    "listen.connections_per_address",
    "route.log",
    "route.cache_control.*",
    "route.response_headers.remove",
    "route.response_headers.mode",
    "route.request_headers.remove",
    "route.request_headers.mode",
    "zone",
    "database.*.engine",
    "database.*.databases",
    "database.*.path",
    "files.*.paths",
    "store.*.region",
    "database.*.backup.at",
    "database.*.backup.every",
    "database.*.backup.keep.last",
    "database.*.backup.keep.hourly",
    "database.*.backup.keep.daily",
    "database.*.backup.keep.weekly",
    "database.*.backup.keep.monthly",
    "database.*.backup.keep.yearly",
    "database.*.backup.to",
    "database.*.backup.drill",
    "database.*.backup.drill.every",
    "database.*.backup.rpo",
    "database.*.backup.rto",
    "redis.*.backup.at",
    "redis.*.backup.every",
    "redis.*.backup.keep.last",
    "redis.*.backup.keep.hourly",
    "redis.*.backup.keep.daily",
    "redis.*.backup.keep.weekly",
    "redis.*.backup.keep.monthly",
    "redis.*.backup.keep.yearly",
    "redis.*.backup.to",
    "redis.*.backup.drill",
    "redis.*.backup.drill.every",
    "redis.*.backup.rpo",
    "redis.*.backup.rto",
    "files.*.backup.at",
    "files.*.backup.every",
    "files.*.backup.keep.last",
    "files.*.backup.keep.hourly",
    "files.*.backup.keep.daily",
    "files.*.backup.keep.weekly",
    "files.*.backup.keep.monthly",
    "files.*.backup.keep.yearly",
    "files.*.backup.to",
    "files.*.backup.drill",
    "files.*.backup.drill.every",
    "files.*.backup.rpo",
    "files.*.backup.rto",
];

/// A piece of the text that the grammar understood: a key, or a value that is no list and no table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) span: Range<usize>,
    pub(crate) shown: bool,
}

/// Which parts of a text may be shown.
#[derive(Debug)]
pub(crate) struct Mask<'t> {
    /// In the order of the text, without overlaps; empty when the text has a syntax error.
    pieces: Vec<Piece>,
    /// Words that may be shown between pieces.
    words: HashSet<&'t str>,
    /// Whether the whole text is TOML.
    sound: bool,
}

type Pattern = Vec<&'static str>;

impl<'t> Mask<'t> {
    /// `sound`: the text has no syntax error, so that keys are keys and values are values.
    pub(crate) fn new(text: &'t str, document: &DeTable<'_>, sound: bool) -> Self {
        let mut words = HashSet::from(["true", "false"]);
        known_words(keys::SITE, &mut words);
        [
            keys::HEALTH,
            keys::PROBE,
            keys::LOCKOUT,
            keys::REFUSAL,
            keys::CSRF,
            keys::MAINTENANCE,
            keys::BLOCK,
            keys::COMPRESS,
            keys::CACHE,
            keys::LOG,
        ]
        .iter()
        .for_each(|keys| known_words(keys, &mut words));
        let mut mask = Self { pieces: Vec::new(), words, sound };
        if sound {
            let patterns: Vec<Pattern> =
                SHOWN.iter().map(|path| path.split('.').collect()).collect();
            let live: Vec<&Pattern> = patterns.iter().collect();
            mask.walk(text, document, 0, &live);
            mask.pieces.sort_by_key(|piece| piece.span.start);
        }
        mask
    }

    fn walk(&mut self, text: &'t str, table: &DeTable<'_>, depth: usize, live: &[&Pattern]) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let below: Vec<&Pattern> = live
                .iter()
                .filter(|pattern| pattern.get(depth).is_some_and(|one| *one == "*" || *one == name))
                .copied()
                .collect();
            let raw = text.get(key.span()).unwrap_or_default();
            let plain = is_word(raw);
            if plain {
                self.words.insert(raw);
            }
            // A pattern of paths is a key that is no word: shown where its value is.
            let shown = plain || (!below.is_empty() && is_harmless(raw));
            self.pieces.push(Piece { span: key.span(), shown });
            self.value(text, value, depth + 1, &below);
        }
    }

    fn value(
        &mut self,
        text: &'t str,
        value: &Spanned<DeValue<'_>>,
        depth: usize,
        live: &[&Pattern],
    ) {
        match value.get_ref() {
            DeValue::Table(table) => self.walk(text, table, depth, live),
            DeValue::Array(items) => {
                items.iter().for_each(|item| self.value(text, item, depth, live));
            }
            _ => {
                let raw = text.get(value.span()).unwrap_or_default();
                let shown = live.iter().any(|pattern| pattern.len() == depth) && is_harmless(raw);
                self.pieces.push(Piece { span: value.span(), shown });
            }
        }
    }

    /// Whether the whole text is TOML.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound
    }

    /// The pieces that are not over before `from`.
    pub(crate) fn pieces(&self, from: usize) -> &[Piece] {
        self.pieces
            .get(self.pieces.partition_point(|piece| piece.span.end <= from)..)
            .unwrap_or(&[])
    }

    /// Where the last piece before `at` ends, if there is one.
    pub(crate) fn end_before(&self, at: usize) -> usize {
        let count = self.pieces.partition_point(|piece| piece.span.end <= at);
        count.checked_sub(1).and_then(|last| self.pieces.get(last)).map_or(0, |one| one.span.end)
    }

    /// Whether a word between pieces may be shown.
    pub(crate) fn knows(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// Whether the key or value at this place may be quoted.
    pub(crate) fn shows(&self, span: &Range<usize>) -> bool {
        let at = self.pieces.partition_point(|piece| piece.span.start < span.start);
        self.sound && self.pieces.get(at).is_some_and(|piece| piece.span == *span && piece.shown)
    }
}

fn known_words(keys: &[Key], into: &mut HashSet<&str>) {
    for key in keys {
        into.insert(key.name);
        if let Kind::Table(keys) | Kind::Named(keys) | Kind::Tables(keys) = key.kind {
            known_words(keys, into);
        }
    }
}

/// A key as people write it: without quotes, and short.
fn is_word(raw: &str) -> bool {
    (1..=MAX_KEY).contains(&raw.len()) && raw.chars().all(is_word_character)
}

pub(crate) fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A literal that looks like a path, number, host or name: no user in an address, no query, no escapes.
fn is_harmless(raw: &str) -> bool {
    let quoted = |quote: char| raw.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let text = quoted('"').or_else(|| quoted('\'')).unwrap_or(raw);
    let place = text.split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
    text.len() <= MAX_SHOWN
        && text.chars().all(|c| c.is_alphanumeric() || " ./*:_-[]%,=;+".contains(c))
        && place.is_none_or(is_bare_authority)
        && equal_signs_are_known(text)
}

/// Whether each `=` belongs to a directive of `Cache-Control` or to a charset: in a path it may stand
/// before a token.
fn equal_signs_are_known(text: &str) -> bool {
    let known = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "charset"];
    let mut before = text.split('=');
    before.next_back();
    before.all(|part| known.iter().any(|word| part.ends_with(word)))
}

/// A host with or without port, and nothing else: addresses of chats and the like carry their secret in
/// the path, and a password before a lost `@` looks like a port that is no number.
fn is_bare_authority(place: &str) -> bool {
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (place, ""),
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (host.starts_with('[') || !host.contains(':'))
        && host.chars().all(|c| c.is_alphanumeric() || ".-*[]:".contains(c))
}

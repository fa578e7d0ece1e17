//! Keys of `[tls]`.

use super::{Key, Kind, key};

/// `[tls]`.
pub const TLS: &[Key] = &[
    key(
        "mode",
        Kind::Text,
        "`internal` (own authority) or `off` (another terminator stands in front); internal for local names, else `acme`",
    ),
    key(
        "cert",
        Kind::Text,
        "file with the certificate chain (PEM), leaf first; read again when it changes",
    ),
    key("key", Kind::Text, "file with the private key (PEM)"),
    key("acme", Kind::Table(ACME), "certificates of a public authority; `{}` for the defaults"),
    key("min", Kind::Text, "the oldest TLS that is spoken: `1.2` or `1.3`; 1.2"),
    key("clients", Kind::Table(CLIENTS), "certificates that clients show"),
];

/// `tls.acme`.
pub const ACME: &[Key] = &[
    key("email", Kind::Text, "where the authority writes to"),
    key(
        "directories",
        Kind::Texts,
        "whom to ask, in this order: `letsencrypt`, `letsencrypt-staging`, `zerossl`, `google`, or the URL of an ACME directory; letsencrypt",
    ),
    key(
        "challenge",
        Kind::Text,
        "how names are proven: `http-01`, `tls-alpn-01` or `dns-01` (the only one for `*.name`); http-01, with `dns` dns-01",
    ),
    key("dns", Kind::Table(DNS), "who writes TXT records, for dns-01"),
    key("profile", Kind::Text, "a profile of the authority, such as `shortlived`"),
    key("eab", Kind::Table(EAB), "binds our account to one that exists with the authority"),
    key(
        "ca",
        Kind::Text,
        "file with roots (PEM) that are trusted when a private authority is asked",
    ),
    key(
        "resolvers",
        Kind::Texts,
        "name servers, `\"address:port\"`, to be asked instead of the system's and instead of a zone's own",
    ),
];

/// `tls.acme.dns`.
pub const DNS: &[Key] = &[
    key("rfc2136", Kind::Table(RFC2136), "dynamic updates to a name server, signed"),
    key("route53", Kind::Table(ROUTE53), "Amazon Route 53"),
    key(
        "exec",
        Kind::Command,
        "a program, called as lego's `exec` provider calls it: `present NAME. VALUE`, `cleanup NAME. VALUE`",
    ),
    key("env", Kind::Map, "the program's environment, such as `{ TOKEN = \"secret:DNS_TOKEN\" }`"),
    key(
        "wait",
        Kind::Duration,
        "how long a record may take to be seen by all servers of the zone; 2m",
    ),
];

/// `tls.acme.dns.rfc2136`.
pub const RFC2136: &[Key] = &[
    key("server", Kind::Text, "the zone's primary server, `\"host:port\"`; port 53"),
    key("zone", Kind::Text, "the zone; found by asking the server"),
    key("key", Kind::Text, "name of the TSIG key"),
    key("secret", Kind::Text, "the TSIG key, base64: `\"secret:NAME\"`"),
    key("algorithm", Kind::Text, "`hmac-sha256`, `hmac-sha384` or `hmac-sha512`; hmac-sha256"),
];

/// `tls.acme.dns.route53`.
pub const ROUTE53: &[Key] = &[
    key("key", Kind::Text, "access key: `\"secret:NAME\"`"),
    key("secret", Kind::Text, "secret key: `\"secret:NAME\"`"),
    key("zone", Kind::Text, "id of the hosted zone; found by the name"),
    key("region", Kind::Text, "for signatures; us-east-1"),
    key("endpoint", Kind::Text, "where the API is; https://route53.amazonaws.com"),
];

/// `tls.acme.eab`.
pub const EAB: &[Key] = &[
    key("kid", Kind::Text, "the key's id"),
    key("key", Kind::Text, "the key (base64url): `\"secret:NAME\"`"),
];

/// `tls.clients`.
pub const CLIENTS: &[Key] = &[
    key("ca", Kind::Text, "file with the authorities (PEM) whose certificates count"),
    key(
        "require",
        Kind::Switch,
        "refuse whoever shows none; otherwise the application sees in `X-Client-Verified` whether one was shown",
    ),
];

//! Reading `[tls]`.
//!
//! Invariants: what is returned can be tried as it stands; a secret stands by its name or, where a person
//! insists, in the clear, and is never shown. Not here: whether files exist and authorities answer.

use std::ops::Range;

use toml::de::DeTable;

use crate::backups::read_value;
use crate::keys::tls as keys;
use crate::limits;
use crate::read::{Found, Reader, Value};
use crate::site::EnvValue;
use crate::site::tls::{Acme, Clients, Dns, Handshake, Tls};

/// Directories by the names that people know them by.
const KNOWN: [(&str, &str); 4] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
    ("zerossl", "https://acme.zerossl.com/v2/DV90"),
    ("google", "https://dv.acme-v02.api.pki.goog/directory"),
];
/// How names can be proven.
const CHALLENGES: [&str; 3] = ["http-01", "tls-alpn-01", "dns-01"];
/// Algorithms of TSIG that are not broken.
const ALGORITHMS: [&str; 3] = ["hmac-sha256", "hmac-sha384", "hmac-sha512"];

pub(crate) fn read_tls(
    reader: &mut Reader<'_>,
    span: Range<usize>,
    table: &DeTable<'_>,
) -> (Option<Tls>, Handshake) {
    let found = reader.known(table, keys::TLS, "`[tls]`");
    let cert = text(reader, &found, "cert");
    let key = text(reader, &found, "key");
    let mode = found.get("mode").and_then(|(_, value)| Some((value.span(), reader.text(value)?)));
    let acme = found.get("acme").map(|(_, value)| (value.span(), read_acme(reader, value)));
    let handshake = read_handshake(reader, &found);
    let tls = match (mode, acme, cert, key) {
        (None, None, Some(cert), Some(key)) => Some(Tls::Files { cert, key }),
        (None, None, None, None) => None,
        (None, Some((_, acme)), None, None) => acme.map(|acme| Tls::Acme(Box::new(acme))),
        (Some((_, mode)), None, None, None) if mode == "internal" => Some(Tls::Internal),
        (Some((_, mode)), None, None, None) if mode == "off" => Some(Tls::Off),
        (Some((span, _)), None, None, None) => {
            reader.problem(span, "`mode` is `internal` or `off`", None);
            None
        }
        (_, Some((span, _)), ..) => {
            let what = "`acme` excludes `mode`, `cert` and `key`";
            reader.problem(span, what, None);
            None
        }
        (Some(_), ..) => {
            reader.problem(span, "`mode` and `cert` with `key` exclude each other", None);
            None
        }
        (None, ..) => {
            reader.problem(span, "`cert` and `key` belong together", None);
            None
        }
    };
    (tls, handshake)
}

fn text(reader: &mut Reader<'_>, found: &Found<'_>, key: &str) -> Option<String> {
    found.get(key).and_then(|(_, value)| reader.text(value))
}

fn secret(reader: &mut Reader<'_>, found: &Found<'_>, key: &str) -> Option<EnvValue> {
    found.get(key).and_then(|(_, value)| read_value(reader, value))
}

/// One of a few words.
fn word(reader: &mut Reader<'_>, found: &Found<'_>, key: &str, words: &[&str]) -> Option<String> {
    let (_, value) = found.get(key)?;
    let given = reader.text(value)?;
    if words.contains(&given.as_str()) {
        return Some(given);
    }
    let help = reader.suggest(&given, words.iter().copied());
    reader.problem(value.span(), format!("this is one of `{}`", words.join("`, `")), help);
    None
}

fn read_handshake(reader: &mut Reader<'_>, found: &Found<'_>) -> Handshake {
    let min = word(reader, found, "min", &["1.2", "1.3"]);
    let clients = found.get("clients").and_then(|(_, value)| {
        let table = reader.table(value)?;
        let found = reader.known(table, keys::CLIENTS, "`clients`");
        let require = found.get("require").and_then(|(_, value)| reader.switch(value));
        let Some(ca) = text(reader, &found, "ca") else {
            missing(reader, value, "ca", "ca = \"clients.pem\"");
            return None;
        };
        Some(Clients { ca, require: require.unwrap_or(true) })
    });
    Handshake { only_13: min.as_deref() == Some("1.3"), clients }
}

fn missing(reader: &mut Reader<'_>, value: Value<'_>, key: &str, help: &str) {
    reader.problem(value.span(), format!("this needs `{key}`"), Some(help.to_owned()));
}

fn read_acme(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Acme> {
    let before = reader.count();
    let table = reader.table(value)?;
    let found = reader.known(table, keys::ACME, "`acme`");
    let defaults = Acme::default();
    let email = found.get("email").and_then(|(_, value)| {
        let email = reader.text(value)?;
        let fits = email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && host.contains('.') && !email.contains([' ', ',', '<'])
        });
        if !fits {
            reader.problem(value.span(), "this is no mail address", None);
        }
        fits.then_some(email)
    });
    let directories = match found.get("directories") {
        Some((_, value)) => read_directories(reader, value),
        None => defaults.directories.clone(),
    };
    let (dns, wait) = found.get("dns").map_or((None, None), |(_, value)| read_dns(reader, value));
    let usual = if dns.is_some() { "dns-01" } else { "http-01" };
    let challenge = word(reader, &found, "challenge", &CHALLENGES);
    let challenge = challenge.unwrap_or_else(|| usual.to_owned());
    if let (Some((span, _)), "dns-01", None) =
        (found.get("challenge"), challenge.as_str(), found.get("dns"))
    {
        let help = "dns = { rfc2136 = { server = \"ns1.example.com\" } }, { route53 = … } or { exec = \"./hook\" }";
        let what = "`dns-01` needs `dns`: who writes the TXT records";
        reader.problem(span.clone(), what, Some(help.to_owned()));
    }
    let acme = Acme {
        email,
        directories,
        challenge,
        dns,
        wait: wait.unwrap_or(defaults.wait),
        profile: text(reader, &found, "profile"),
        eab: found.get("eab").and_then(|(_, value)| read_eab(reader, value)),
        ca: text(reader, &found, "ca"),
        resolvers: found
            .get("resolvers")
            .map(|(_, value)| read_resolvers(reader, value))
            .unwrap_or_default(),
    };
    reader.understood(before).then_some(acme)
}

fn read_directories(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<String> {
    let mut given = reader.texts(value);
    reader.at_most(value, &mut given, limits::LIST, "directories");
    if given.is_empty() {
        reader.problem(value.span(), "whom to ask?", Some("[\"letsencrypt\"]".to_owned()));
    }
    let mut all = Vec::new();
    for (span, name) in given {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        let is_url = name.split_once("://").is_some_and(|(scheme, rest)| {
            matches!(scheme, "https" | "http") && !rest.is_empty() && !rest.starts_with('/')
        });
        match known {
            Some((_, url)) => all.push((*url).to_owned()),
            None if is_url && !name.contains(['@', ' ']) => all.push(name),
            None => {
                let help = reader.suggest(&name, KNOWN.iter().map(|(name, _)| *name));
                let help = help.unwrap_or_else(|| "https://ca.example/directory".to_owned());
                let quoted = reader.quote(&span, &name);
                let what = format!("{quoted} is no authority that is known, and no URL of one");
                reader.problem(span, what, Some(help));
            }
        }
    }
    all
}

fn read_eab(reader: &mut Reader<'_>, value: Value<'_>) -> Option<(String, EnvValue)> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::EAB, "`eab`");
    let both = text(reader, &found, "kid").zip(secret(reader, &found, "key"));
    if both.is_none() && !(found.contains_key("kid") && found.contains_key("key")) {
        missing(reader, value, "kid` and `key", "eab = { kid = \"…\", key = \"secret:EAB_KEY\" }");
    }
    both
}

fn read_resolvers(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<std::net::SocketAddr> {
    let mut given = reader.texts(value);
    reader.at_most(value, &mut given, limits::LIST, "name servers");
    let mut all = Vec::new();
    for (span, text) in given {
        let bare = text.parse::<std::net::IpAddr>().map(|address| (address, 53).into());
        match text.parse().or(bare) {
            Ok(address) => all.push(address),
            Err(_) => reader.problem(
                span,
                "this is no address of a name server",
                Some("[\"9.9.9.9:53\"]".to_owned()),
            ),
        }
    }
    all
}

fn read_dns(
    reader: &mut Reader<'_>,
    value: Value<'_>,
) -> (Option<Dns>, Option<std::time::Duration>) {
    let Some(table) = reader.table(value) else { return (None, None) };
    let found = reader.known(table, keys::DNS, "`dns`");
    let wait = found.get("wait").and_then(|(_, value)| reader.duration(value));
    let named: Vec<&str> =
        ["rfc2136", "route53", "exec"].into_iter().filter(|key| found.contains_key(key)).collect();
    let [one] = named[..] else {
        let help = "dns = { rfc2136 = { server = \"ns1.example.com\" } }".to_owned();
        let what = "`dns` names one of `rfc2136`, `route53` and `exec`";
        reader.problem(value.span(), what, Some(help));
        return (None, wait);
    };
    let Some((_, inner)) = found.get(one) else { return (None, wait) };
    let dns = match one {
        "rfc2136" => read_rfc2136(reader, inner),
        "route53" => read_route53(reader, inner),
        _ => {
            let env = found.get("env").map(|(_, value)| reader.environment(value));
            let env = env.unwrap_or_default();
            reader.command(inner, &[]).map(|command| Dns::Exec { command, env })
        }
    };
    (dns, wait)
}

fn read_rfc2136(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Dns> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::RFC2136, "`rfc2136`");
    let algorithm = word(reader, &found, "algorithm", &ALGORITHMS);
    let (key, secret) = (text(reader, &found, "key"), secret(reader, &found, "secret"));
    if found.contains_key("key") != found.contains_key("secret") {
        missing(reader, value, "key` and `secret", "key = \"acme.\", secret = \"secret:TSIG_KEY\"");
    }
    let zone = text(reader, &found, "zone");
    let Some(server) = text(reader, &found, "server") else {
        missing(reader, value, "server", "server = \"ns1.example.com:53\"");
        return None;
    };
    let algorithm = algorithm.unwrap_or_else(|| "hmac-sha256".to_owned());
    Some(Dns::Rfc2136 { server, zone, key: key.zip(secret), algorithm })
}

fn read_route53(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Dns> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::ROUTE53, "`route53`");
    let usual = |given: Option<String>, usual: &str| given.unwrap_or_else(|| usual.to_owned());
    let region = usual(text(reader, &found, "region"), "us-east-1");
    let endpoint = usual(text(reader, &found, "endpoint"), "https://route53.amazonaws.com");
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    let zone = text(reader, &found, "zone");
    let both = secret(reader, &found, "key").zip(secret(reader, &found, "secret"));
    let Some((key, secret)) = both else {
        let help = "key = \"secret:AWS_KEY\", secret = \"secret:AWS_SECRET\"";
        missing(reader, value, "key` and `secret", help);
        return None;
    };
    Some(Dns::Route53 { key, secret, zone, region, endpoint })
}

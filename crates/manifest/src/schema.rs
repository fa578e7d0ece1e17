//! The JSON schema for editors and the reference for people, both from the table of keys.

use serde_json::{Map, Value, json};

use crate::keys::{self, Key, Kind};

/// JSON schema (draft 2020-12) of the manifest.
pub fn schema() -> Value {
    let mut schema = table(keys::SITE);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "seaworthy.toml".into();
    schema["required"] = json!(["service"]);
    schema
}

fn table(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .filter(|key| key.kind != Kind::Planned)
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn property(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Integer => json!({ "type": "integer" }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Duration => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$" }),
        Kind::Size => {
            json!({ "anyOf": [{ "type": "string", "pattern": "^[0-9]+([KMGT](iB|B)?|B)?$" }, { "const": false }] })
        }
        Kind::Command => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "array" }, { "type": "object", "properties": { "shell": { "type": "string" } }, "additionalProperties": false }] })
        }
        Kind::Texts => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
        }
        Kind::Map => json!({ "anyOf": [{ "type": "object" }, { "const": false }] }),
        Kind::Table(keys) => json!({ "anyOf": [table(keys), { "const": false }] }),
        Kind::Named(keys) => json!({ "type": "object", "additionalProperties": table(keys) }),
        Kind::Tables(keys) => json!({ "type": "array", "items": table(keys) }),
        Kind::Any | Kind::Planned => json!({}),
    };
    schema["description"] = key.doc.into();
    schema
}

/// All keys as Markdown.
pub fn reference() -> String {
    let mut out = String::from(
        "# seaworthy.toml: every key\n\nMade by `cargo xtask gen` from the table that the reader itself uses.\n",
    );
    let sections: [(&str, &[Key]); 51] = [
        ("Top of the file", keys::SITE),
        ("[tls]", keys::tls::TLS),
        ("tls: acme", keys::tls::ACME),
        ("tls: acme.dns", keys::tls::DNS),
        ("tls: acme.dns.rfc2136", keys::tls::RFC2136),
        ("tls: acme.dns.route53", keys::tls::ROUTE53),
        ("tls: acme.eab", keys::tls::EAB),
        ("tls: clients", keys::tls::CLIENTS),
        ("[listen]", keys::LISTEN),
        ("[secrets]", keys::SECRETS),
        ("[identity]", keys::IDENTITY),
        ("[health]", keys::AGGREGATE),
        ("health: key", keys::HEALTH_KEY),
        ("[limit.X]", keys::LIMIT),
        ("[service.X]", keys::SERVICE),
        ("service: health", keys::HEALTH),
        ("service: health.ready, health.live", keys::PROBE),
        ("service: restart", keys::RESTART),
        ("service: stop", keys::STOP),
        ("service: logs", keys::LOGS),
        ("[[route]]", keys::ROUTE),
        ("route: respond", keys::RESPOND),
        ("route: block", keys::BLOCK),
        ("route: lockout", keys::LOCKOUT),
        ("route: lockout.match", keys::REFUSAL),
        ("route: csrf", keys::CSRF),
        ("route: cors", keys::CORS),
        ("route: auth", keys::AUTH),
        ("route: maintenance", keys::MAINTENANCE),
        ("route: rewrite", keys::REWRITE),
        ("route: cookies", keys::COOKIES),
        ("route: compress", keys::COMPRESS),
        ("route: cache", keys::CACHE),
        ("route: log", keys::LOG),
        ("route: timeout", keys::delivery::TIMEOUT),
        ("route: passive", keys::delivery::PASSIVE),
        ("route: retry", keys::delivery::RETRY),
        ("route: breaker", keys::delivery::BREAKER),
        ("route: hold", keys::delivery::HOLD),
        ("route: response_headers, request_headers", keys::HEADERS),
        ("[database.X]", keys::backups::DATABASE),
        ("[redis.X]", keys::backups::REDIS),
        ("[files.X]", keys::backups::FILES),
        ("database, redis, files: backup", keys::backups::BACKUP),
        ("backup: keep", keys::backups::KEEP),
        ("backup: drill", keys::backups::DRILL),
        ("[store.X]", keys::backups::STORE),
        ("[outgoing.X]", keys::outgoing::OUTGOING),
        ("outgoing: retry", keys::outgoing::RETRY),
        ("outgoing: hold", keys::outgoing::HOLD),
        ("outgoing: timeout", keys::outgoing::TIMEOUT),
    ];
    for (title, keys) in sections {
        out.push_str(&format!("\n## {title}\n\n| key | meaning |\n| --- | --- |\n"));
        for key in keys.iter().filter(|key| key.kind != Kind::Planned) {
            out.push_str(&format!("| `{}` | {} |\n", key.name, key.doc.replace('|', "\\|")));
        }
        let planned: Vec<String> = keys
            .iter()
            .filter(|key| key.kind == Kind::Planned)
            .map(|key| format!("`{}`", key.name))
            .collect();
        if !planned.is_empty() {
            out.push_str(&format!("\nPlanned, and refused until built: {}.\n", planned.join(", ")));
        }
    }
    out
}

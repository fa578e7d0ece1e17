//! Reading one `[store.X]`.
//!
//! Invariants: a URL names everything that is needed to reach the store but its secrets; what could be taken
//! for an option by a program that is started later is refused.

use std::ops::Range;

use toml::de::DeTable;

use super::{read_value, table_place};
use crate::keys::backups::STORE;
use crate::limits;
use crate::read::Reader;
use crate::site::backups::{Place, Store};
use crate::wire;

pub(super) fn read_store(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Store> {
    let found = reader.known(table, STORE, "`[store.X]`");
    let secret = |reader: &mut Reader<'_>, key: &str| {
        found.get(key).and_then(|(_, value)| read_value(reader, value))
    };
    let (key, secret) = (secret(reader, "key"), secret(reader, "secret"));
    let text = |reader: &mut Reader<'_>, key: &str| {
        found.get(key).and_then(|(_, value)| reader.text(value))
    };
    let (region, endpoint, host_key) =
        (text(reader, "region"), text(reader, "endpoint"), text(reader, "host_key"));
    let mut encrypt =
        found.get("encrypt").map(|(_, value)| reader.texts(value)).unwrap_or_default();
    if let Some((_, value)) = found.get("encrypt") {
        reader.at_most(value, &mut encrypt, limits::LIST, "recipients");
    }
    for (span, recipient) in &encrypt {
        let good = recipient.strip_prefix("age1").is_some_and(|rest| {
            rest.len() == 58
                && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        if !good {
            reader.problem(
                span.clone(),
                "this is no age recipient (`age1…`, 62 characters)",
                Some("age-keygen -o key.txt   prints one".to_owned()),
            );
        }
    }
    let Some((_, value)) = found.get("url") else {
        reader.problem(
            table_place(table),
            "this store needs `url`",
            Some("url = \"s3://bucket/prefix\"".to_owned()),
        );
        return None;
    };
    let url = reader.text(value)?;
    let place = read_place(reader, value.span(), &url, Extras { region, endpoint, host_key })?;
    Some(Store { place, key, secret, encrypt: encrypt.into_iter().map(|(_, text)| text).collect() })
}

/// What only one kind of store has.
struct Extras {
    region: Option<String>,
    endpoint: Option<String>,
    host_key: Option<String>,
}

fn read_place(
    reader: &mut Reader<'_>,
    span: Range<usize>,
    url: &str,
    extras: Extras,
) -> Option<Place> {
    let form = |reader: &mut Reader<'_>, form: &str| {
        reader.problem(
            span.clone(),
            "this store's URL is incomplete",
            Some(format!("write it like `{form}`")),
        );
    };
    match url.split_once("://") {
        Some(("file", path)) if path.starts_with('/') && path.len() > 1 => {
            Some(Place::Folder(path.to_owned()))
        }
        Some(("file", _)) => {
            form(reader, "file:///mnt/backups");
            None
        }
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let good = (3..=63).contains(&bucket.len())
                && bucket
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            if !good {
                form(reader, "s3://bucket/prefix");
                return None;
            }
            let region = extras.region.unwrap_or_else(|| "us-east-1".to_owned());
            Some(Place::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
                endpoint: extras.endpoint,
                region,
            })
        }
        Some(("sftp", rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, address) = authority
                .rsplit_once('@')
                .map_or((None, authority), |(user, address)| (Some(user.to_owned()), address));
            let (host, port) = address
                .rsplit_once(':')
                .map_or((address, Some(22)), |(host, port)| (host, port.parse().ok()));
            // A colon would be a password, which ssh does not take; a leading dash an option.
            let user_fits = user
                .as_ref()
                .is_none_or(|user| !user.starts_with('-') && !user.contains([':', ' ']));
            let good = wire::host(host).is_some() && user_fits;
            match port {
                Some(port) if good => Some(Place::Sftp {
                    host: host.to_owned(),
                    port,
                    user,
                    path: path.to_owned(),
                    host_key: extras.host_key,
                }),
                _ => {
                    form(reader, "sftp://user@host:22/path");
                    None
                }
            }
        }
        Some(("gs" | "az", _)) => {
            reader.problem(
                span,
                "planned: stores of this kind are not built yet",
                Some("s3://, sftp:// and file:// are".to_owned()),
            );
            None
        }
        _ => {
            form(reader, "s3://bucket/prefix");
            None
        }
    }
}

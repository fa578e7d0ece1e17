//! What becomes of answers: `compress`, `cache`, and how many are logged.

use seaworthy_base::policy::{Cache, Compress};

use super::{table_or_true, texts_that};
use crate::keys;
use crate::read::{Reader, Value};
use crate::wire;

pub(super) fn compress(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Compress> {
    table_or_true(reader, value, Compress::default, |reader, table| {
        let found = reader.known(table, keys::COMPRESS, "`compress`");
        let mut given = Compress::default();
        if let Some((_, value)) = found.get("min") {
            given.min = reader.size(value)?;
        }
        if let Some((_, value)) = found.get("types") {
            given.types = texts_that(reader, value, "media type, such as `text/*`", |text| {
                let (kind, rest) = text.split_once('/')?;
                let good = wire::is_token(kind) && (rest == "*" || wire::is_token(rest));
                good.then(|| text.to_ascii_lowercase())
            });
        }
        Some(given)
    })
}

pub(super) fn cache(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Cache> {
    table_or_true(reader, value, Cache::default, |reader, table| {
        let found = reader.known(table, keys::CACHE, "`cache`");
        let mut time = |key: &str| found.get(key).and_then(|(_, value)| reader.duration(value));
        let mut given = Cache {
            ttl: time("ttl"),
            stale_while_revalidate: time("stale_while_revalidate"),
            stale_if_error: time("stale_if_error"),
            ..Cache::default()
        };
        if let Some((_, value)) = found.get("max_object") {
            given.max_object = reader.size(value)?;
        }
        Some(given)
    })
}

/// `log = { sample = "10%" }`, in thousandths.
pub(super) fn log_sample(reader: &mut Reader<'_>, value: Value<'_>) -> Option<u16> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::LOG, "`log`");
    let Some((_, value)) = found.get("sample") else { return Some(1000) };
    share(reader, value, "a sample")
}

/// `"10%"`, in thousandths. `what` it is of begins the complaint.
pub(crate) fn share(reader: &mut Reader<'_>, value: Value<'_>, what: &str) -> Option<u16> {
    let text = reader.text(value)?;
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let parts = percent.filter(|percent| (0.1..=100.0).contains(percent));
    if parts.is_none() {
        let message = format!("{what} is written `10%`, from 0.1% to 100%");
        reader.problem(value.span(), message, None);
    }
    parts.map(|percent| (percent * 10.0).round() as u16)
}

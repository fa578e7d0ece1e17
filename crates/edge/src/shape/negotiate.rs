//! Which content coding a client gets (RFC 9110 § 12.5.3).

use http::HeaderValue;

use super::Coding;

/// What a client accepts, the best first: by its own weights, then the one that packs best for its cost.
pub(crate) fn accepted(header: &HeaderValue) -> Vec<Coding> {
    let text = header.to_str().unwrap_or_default();
    let weights: Vec<(&str, u32)> = text.split(',').filter_map(weight).collect();
    let of = |coding: Coding| {
        let named = |name: &str| {
            weights.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, q)| *q)
        };
        named(coding.name())
            .or_else(|| (coding == Coding::Gzip).then(|| named("x-gzip")).flatten())
            .or_else(|| named("*"))
            .unwrap_or(0)
    };
    let mut all: Vec<(u32, Coding)> = Coding::ALL.iter().map(|one| (of(*one), *one)).collect();
    all.retain(|(q, _)| *q > 0);
    all.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
    all.into_iter().map(|(_, coding)| coding).collect()
}

/// The best of [`accepted`].
pub(crate) fn best(header: &HeaderValue) -> Option<Coding> {
    accepted(header).into_iter().next()
}

/// A word of the header and its weight in thousandths.
fn weight(word: &str) -> Option<(&str, u32)> {
    let mut parts = word.split(';');
    let name = parts.next()?.trim();
    let q = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
    });
    let q = q.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
    (!name.is_empty()).then_some((name, (q * 1000.0) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_weights_come_first_then_our_order() {
        for (given, expected) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br", Some(Coding::Brotli)),
            ("gzip", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("zstd;q=0.1, gzip;q=0.9", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0", Some(Coding::Brotli)),
            ("gzip;q=0", None),
            ("identity", None),
            ("deflate", None),
            ("", None),
            ("gzip;q=nonsense", Some(Coding::Gzip)),
        ] {
            assert_eq!(best(&HeaderValue::from_str(given).unwrap()), expected, "{given}");
        }
    }
}

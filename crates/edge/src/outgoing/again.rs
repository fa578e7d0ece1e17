//! When a call is made again: what the other side asked for (`Retry-After`, RFC 9110 § 10.2.3), or soon.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

/// Nobody is left alone for longer, whatever it asks for: one wrong answer must not silence an application for a year.
const LONGEST: Duration = Duration::from_secs(3600);
/// Before the second try; twice as long before each further one.
const SOON: Duration = Duration::from_millis(250);
/// No pause of our own is longer.
const LATE: Duration = Duration::from_secs(10);

/// For how long the other side asks to be left alone.
pub(super) fn asked_for(
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(LONGEST))
}

/// A pause before the try after `tries`; `chance` is from 0 to 1, so that those who failed together do not come back
/// together.
pub(super) fn pause(tries: u32, chance: f64) -> Duration {
    let longest = SOON.saturating_mul(1 << tries.min(10)).min(LATE);
    longest / 2 + (longest / 2).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let asked = |status: u16, text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            asked_for(StatusCode::from_u16(status).unwrap(), &headers, now)
        };
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!(asked(429, "7"), seconds(7));
        assert_eq!(asked(503, " 0 "), seconds(0));
        assert_eq!(asked(503, "Sun, 06 Nov 1994 08:49:37 GMT"), seconds(7));
        assert_eq!(asked(503, "Sat, 06 Nov 1993 08:49:37 GMT"), seconds(0));
        assert_eq!(asked(429, "31536000"), seconds(3600));
        for nonsense in ["-1", "soon", "1.5", ""] {
            assert_eq!(asked(429, nonsense), None, "{nonsense}");
        }
        // Of a redirect it says something else.
        assert_eq!(asked(301, "7"), None);
        assert_eq!(asked_for(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), now), None);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let millis = |tries, chance| pause(tries, chance).as_millis();
        assert_eq!([millis(0, 0.0), millis(0, 1.0), millis(3, 1.0)], [125, 250, 2000]);
        assert_eq!(millis(40, 1.0), 10_000);
    }
}

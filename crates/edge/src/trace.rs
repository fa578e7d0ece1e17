//! `traceparent` (W3C Trace Context): kept when a client brings one, made when it does not.
//!
//! A trace that begins here has the request's id as its id, so that the trace leads to the log line.
//! Invariant: what goes to the instance is always well-formed; `tracestate` never goes without it.

use http::{HeaderMap, HeaderName, HeaderValue};
use seaworthy_base::RequestId;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace that a client brought; what is none is removed.
pub(crate) fn kept(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    match (given.next(), given.next()) {
        (Some(value), None) if is_valid(value.as_bytes()) => return Some(value.clone()),
        (None, _) => {}
        _ => drop(headers.remove(TRACEPARENT)),
    }
    headers.remove(TRACESTATE);
    None
}

/// `00-<32 hex digits>-<16>-<2>`, ids not all zero; later versions may be longer.
fn is_valid(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let Some(parts) = value.get(..55) else { return false };
    let dashes = [2, 35, 52].iter().all(|at| parts[*at] == b'-');
    let (version, trace, parent, flags) =
        (&parts[..2], &parts[3..35], &parts[36..52], &parts[53..]);
    let length = value.len() == 55 || (version != b"00" && value[55] == b'-' && value.len() < 256);
    dashes
        && length
        && [version, trace, parent, flags].into_iter().all(hex)
        && version != b"ff"
        && trace.iter().any(|b| *b != b'0')
        && parent.iter().any(|b| *b != b'0')
}

/// A trace that begins with this request. Not sampled: whether it is, the application decides.
pub(crate) fn fresh(id: RequestId) -> [u8; 55] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = id.bits();
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let digit = |at: u32| HEX[(bits >> (at * 4)) as usize & 15];
    for at in 0..32 {
        text[34 - at as usize] = digit(at);
    }
    for at in 0..16 {
        text[51 - at as usize] = digit(at);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_kept_if_it_is_one_and_begun_otherwise() {
        let put_with = |given: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACESTATE, HeaderValue::from_static("x=1"));
            for value in given {
                headers.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            let kept = kept(&mut headers).is_some();
            assert_eq!(headers.contains_key(TRACESTATE), kept);
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), usize::from(kept));
            kept
        };
        assert!(put_with(&[GIVEN]));
        assert!(put_with(&[
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-later-versions-add"
        ]));
        assert!(!put_with(&[]));
        assert!(!put_with(&[GIVEN, GIVEN]));
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert!(!put_with(&[bad]), "{bad}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_found_by_the_requests_id() {
        let id = RequestId::new(1_763_000_000_007, 1, 0, 7, 0xdead_beef);
        let text = fresh(id);
        assert!(is_valid(&text));
        let trace = std::str::from_utf8(&text[3..35]).unwrap();
        assert_eq!(u128::from_str_radix(trace, 16).unwrap(), id.bits());
    }
}

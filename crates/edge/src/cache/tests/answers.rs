//! What of a kept answer a client gets, by what it has and asks for.

use super::*;

#[test]
fn the_client_gets_the_whole_a_part_or_nothing_new() {
    let response = [
        ("cache-control", "max-age=60"),
        ("etag", "W/\"x\""),
        ("last-modified", DATE),
        ("content-type", "text/plain"),
        ("content-encoding", "identity"),
        ("x", "1"),
    ];
    let given = (*kept(&response).unwrap()).clone().with_body("0123456789".into());
    let ask = |pairs: &[(&'static str, &'static str)]| {
        answer(&given, &Method::GET, &conditions(&head(pairs)), NOW + 3000, "hit")
    };
    let whole = ask(&[]);
    assert_eq!(
        (whole.status().as_u16(), &whole.headers()["age"]),
        (200, &http::HeaderValue::from_static("3"))
    );
    assert_eq!(whole.headers()["cache-status"], "seaworthy; hit; ttl=57");
    let unchanged = ask(&[("if-none-match", "\"y\", \"x\"")]);
    assert_eq!((unchanged.status().as_u16(), unchanged.headers().get("x")), (304, None));
    assert_eq!(unchanged.headers()["etag"], "W/\"x\"");
    let part = ask(&[("range", "bytes=2-4")]);
    assert_eq!(
        (part.status().as_u16(), &part.headers()["content-range"]),
        (206, &http::HeaderValue::from_static("bytes 2-4/10"))
    );
    let refused = ask(&[("range", "bytes=20-")]);
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["content-range"]),
        (416, &http::HeaderValue::from_static("bytes */10"))
    );
    // Whoever keeps the refusal must not take it for the answer.
    for name in ["cache-control", "etag", "content-type", "content-encoding", "last-modified"] {
        assert!(
            whole.headers().contains_key(name) && !refused.headers().contains_key(name),
            "{name}"
        );
    }
    assert_eq!(refused.headers()["x"], "1");
    // What was begun with another answer does not go on with this one's bytes; with this one's it does.
    for (field, value, status) in [
        ("if-match", "\"other\"", 200),
        ("if-match", "W/\"x\"", 200),
        ("if-match", "*", 206),
        ("if-unmodified-since", "Thu, 13 Nov 2025 02:13:19 GMT", 200),
        ("if-unmodified-since", DATE, 206),
    ] {
        let answer = ask(&[("range", "bytes=5-"), (field, value)]);
        assert_eq!(answer.status().as_u16(), status, "{field}: {value}");
    }
    // Two lines are not one.
    assert_eq!(ask(&[("range", "bytes=0-0"), ("range", "bytes=2-2")]).status().as_u16(), 200);
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "\"other\"")]).status().as_u16(), 200);
    // A weak validator does not say that the bytes are the same.
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "W/\"x\"")]).status().as_u16(), 200);
}

//! The attacks of the design's list, class by class, as raw bytes: each is refused with the status it
//! deserves, the connection is closed, and the upstream sees nothing of it, least of all a second request.

use super::*;

/// Behind each attack: what a smuggler hopes to get through.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Sends each attack with a second request behind it and wants one answer, then the end.
fn refused(cases: &[(&str, &str, &str)]) {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let mut wrong = Vec::new();
    for (name, bytes, status) in cases {
        let answer = edge.exchange(format!("{bytes}{SMUGGLED}").as_bytes());
        let lower = answer.to_ascii_lowercase();
        let identified = lower.contains("x-request-id: ") && lower.contains("nosniff\r\n");
        if statuses(&answer) != [*status] || !identified {
            wrong.push(format!("{name}: {status} wanted, got {:?}", statuses(&answer)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?} {:?}", upstream.seen.lock().unwrap());
    let seen = upstream.seen.lock().unwrap();
    assert!(!seen.iter().any(|one| one.contains("smuggled")), "{seen:?}");
    // Bodies that turn out bad may have been begun; nothing of the heads got through.
    assert!(seen.iter().all(|one| one.starts_with("POST /body ")), "{seen:?}");
}

#[test]
fn a_head_with_two_framings_is_refused() {
    refused(&[
        (
            "CL.TE",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            "400",
        ),
        (
            "TE.CL",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
            "400",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
            "400",
        ),
        (
            "one length twice",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "400",
        ),
        (
            "list of lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0, 44\r\n\r\n",
            "400",
        ),
        ("plus", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +0\r\n\r\n", "400"),
        ("minus", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: -1\r\n\r\n", "400"),
        ("hex", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0x2c\r\n\r\n", "400"),
        ("empty length", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length:\r\n\r\n", "400"),
        (
            "overflow",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "400",
        ),
        (
            "TE with 1.0",
            "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "TE twice",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "TE list",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "TE identity",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: identity\r\n\r\n",
            "400",
        ),
        (
            "TE vertical tab",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            "400",
        ),
        (
            "TE quoted",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
            "400",
        ),
        (
            "TE comma",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked,\r\n\r\n",
            "400",
        ),
        (
            "TE space before colon",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n",
            "400",
        ),
    ]);
}

#[test]
fn a_head_that_is_not_in_lines_of_name_colon_value_is_refused() {
    refused(&[
        ("bare LF", "GET / HTTP/1.1\nHost: a.example\n\n", "400"),
        ("bare LF in the middle", "GET / HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n", "400"),
        ("bare LF at the end", "GET / HTTP/1.1\r\nHost: a.example\r\n\n", "400"),
        (
            "bare CR in a value",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rContent-Length: 44\r\n\r\n",
            "400",
        ),
        ("bare CR in the target", "GET /a\rb HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("CR CR LF", "GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n", "505"),
        ("folded", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\r\n b\r\n\r\n", "400"),
        ("folded first", "GET / HTTP/1.1\r\n Host: a.example\r\nHost: a.example\r\n\r\n", "400"),
        (
            "folded TE",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
            "400",
        ),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\0b\r\n\r\n", "400"),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: a.example\r\nX\0Y: a\r\n\r\n", "400"),
        ("NUL in the target", "GET /a\0b HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("DEL", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\x7fb\r\n\r\n", "400"),
        ("space before colon", "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "400"),
        (
            "tab before colon",
            "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length\t: 44\r\n\r\n",
            "400",
        ),
        ("no colon", "GET / HTTP/1.1\r\nHost: a.example\r\nX\r\n\r\n", "400"),
        ("no name", "GET / HTTP/1.1\r\nHost: a.example\r\n: x\r\n\r\n", "400"),
        ("name in parentheses", "GET / HTTP/1.1\r\nHost: a.example\r\n(x): y\r\n\r\n", "400"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("tabs", "GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("space at the end", "GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", "400"),
        ("no version", "GET /\r\nHost: a.example\r\n\r\n", "400"),
        ("HTTP/0.9", "GET /\r\n\r\n", "400"),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a.example\r\n\r\n", "505"),
        ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", "505"),
        ("http/1.1", "GET / http/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        ("TLS on the plain port", "\x16\x03\x01\x02\0", "400"),
        ("two empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        (
            "unknown expectation",
            "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: 200-ok\r\n\r\n",
            "417",
        ),
    ]);
}

#[test]
fn a_request_has_one_host() {
    refused(&[
        ("none", "GET / HTTP/1.1\r\n\r\n", "400"),
        ("none with 1.0", "GET / HTTP/1.0\r\n\r\n", "400"),
        ("two", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "400"),
        ("the same twice", "GET / HTTP/1.1\r\nHost: a.example\r\nhost: a.example\r\n\r\n", "400"),
        ("empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        ("with a path", "GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n", "400"),
        ("with a user", "GET / HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n", "400"),
        ("list", "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", "400"),
        ("URL of another", "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        (
            "URL with a user",
            "GET http://a.example@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "400",
        ),
        ("other scheme", "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("no slash", "GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        ("star", "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
    ]);
}

#[test]
fn an_ambiguous_path_is_refused() {
    let paths = [
        "/%2e%2e/admin",
        "/a/../b",
        "/a/./b",
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/a%00b",
        "/%zz",
        "/%4",
        "//b.example/",
        "/..;/x",
        "/%252e%252e/",
        "/%c0%ae/",
        "/a#b",
        "/\u{e9}",
    ];
    let cases: Vec<_> = paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"))
        .collect();
    let table: Vec<_> =
        paths.iter().zip(&cases).map(|(path, bytes)| (*path, bytes.as_str(), "400")).collect();
    refused(&table);
}

#[test]
fn a_body_whose_chunks_are_not_in_order_is_refused() {
    let bodies = [
        ("no size", "\r\n\r\n"),
        ("word", "size\r\n"),
        ("negative", "-1\r\n"),
        ("plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("space", "5 \r\nhello\r\n0\r\n\r\n"),
        ("overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
        ("bare LF after the data", "5\r\nhello\n0\r\n\r\n"),
        ("bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        (
            "long extension",
            concat!(
                "5;",
                "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
                "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
                "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
                "\r\nhello\r\n0\r\n\r\n"
            ),
        ),
        ("longer than its size", "5\r\nhello!\r\n0\r\n\r\n"),
        ("bare LF at the end", "0\r\n\n"),
        ("folded trailer", "0\r\n x\r\n\r\n"),
        ("trailer without a colon", "0\r\nx\r\n\r\n"),
    ];
    let cases: Vec<_> = bodies
        .iter()
        .map(|(_, body)| {
            format!(
                "POST /body HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            )
        })
        .collect();
    let table: Vec<_> = bodies
        .iter()
        .zip(&cases)
        .map(|((name, _), bytes)| (*name, bytes.as_str(), "400"))
        .collect();
    refused(&table);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_kept() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let many = "X: y\r\n".repeat(200);
    let cases = [
        (format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "a".repeat(20 << 10)), "414"),
        ("A".repeat(1 << 20), "414"),
        (
            format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {}\r\n\r\n", "a".repeat(80 << 10)),
            "431",
        ),
        (format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {}", "a".repeat(1 << 20)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a.example\r\n{many}\r\n"), "431"),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
            "413",
        ),
    ];
    for (bytes, status) in cases {
        assert_eq!(
            statuses(&edge.exchange(bytes.as_bytes())),
            [status],
            "{}",
            short(bytes.as_bytes())
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_chunked_body_beyond_the_limit_is_413() {
    let upstream = Upstream::echo();
    let mut routes = to_web();
    routes[0].settings.body_limit = Some(1000);
    let edge = Edge::start(routes, &[upstream.address]);
    let chunk = format!("1f4\r\n{}\r\n", "a".repeat(500));
    let answer = edge.exchange(format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n{SMUGGLED}", chunk.repeat(3)).as_bytes());
    assert_eq!(statuses(&answer), ["413"], "{answer}");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn what_was_in_order_before_an_attack_is_answered_first() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let answer = edge.exchange(format!("GET /one HTTP/1.1\r\nHost: a.example\r\n\r\nGET /two HTTP/1.1\nHost: a.example\n\n{SMUGGLED}").as_bytes());
    assert_eq!(statuses(&answer), ["200", "400"], "{answer}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_body_is_never_read_as_a_request() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let length = SMUGGLED.len();
    let last = "GET /last HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    for body in [
        format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{length:x};ext=1\r\n{SMUGGLED}\r\n0\r\nX: trailer\r\n\r\n"
        ),
    ] {
        for method in ["POST", "GET", "DELETE", "OPTIONS"] {
            let before = upstream.count();
            let answer = edge.exchange(
                format!("{method} /first HTTP/1.1\r\nHost: a.example\r\n{body}{last}").as_bytes(),
            );
            assert_eq!(statuses(&answer), ["200", "200"], "{method}: {answer}");
            assert_eq!(upstream.count(), before + 2, "{method}");
            assert!(upstream.last().starts_with("GET /last "), "{}", upstream.last());
        }
    }
    assert!(
        upstream
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|one| !one.to_ascii_lowercase().contains("x: trailer"))
    );
}

#[test]
fn a_refusal_stands_in_the_log_with_its_cause_and_without_the_bytes() {
    let edge = Edge::start(to_web(), &[]);
    let answer =
        edge.exchange(b"GET /secret-path HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n");
    let id = answer.split("x-request-id: ").nth(1).unwrap()[..26].to_owned();
    let log = edge.log();
    assert!(
        log.contains(&id)
            && log.contains("more than one Host header")
            && !log.contains("secret-path"),
        "{log}"
    );
    assert!(!answer.contains("Host"), "{answer}");
}

#[test]
fn connect_and_a_switch_to_http2_are_not_passed_on() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let answer = edge.exchange(
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(statuses(&answer), ["405"], "{answer}");
    edge.exchange(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n");
    let seen = upstream.last().to_ascii_lowercase();
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

//! Classes of attacks that are the same whatever a request comes over, each over HTTP/1.1, HTTP/2 and HTTP/3. What only
//! one of them knows stands with it:
//!
//! | class | HTTP/1.1 | HTTP/2 | HTTP/3 |
//! | --- | --- | --- | --- |
//! | a path with two readings | here, `attacks`, `serving` | here | here |
//! | claims of who a client is | here, `up` | here | here |
//! | two framings, two hosts, bytes that are no field | `attacks` | `attacks` | `http3_attacks` |
//! | upgrades, CONNECT | `attacks` | `attacks` | `http3_attacks` |
//! | the cache: keys, what is one's own, who holds it up | `poison`, `cache` | `poison`, `cache` | `poison` |
//! | floods, bombs, windows | – | `attacks` | `http3_attacks` |
//! | who is slow or stops | `attacks_slow` | `attacks_slow` | `http3_attacks` |
//! | heads and bodies that are too large, or unfold | here, `attacks` | here, `attacks` | here, `http3_attacks` |
//! | handshakes, names, certificates, tickets | here, `tls`, `attacks_slow` | here, `attacks` | here, `tls` |
//! | WebSockets: frames, half a close, foreign pages | `sockets`, `origins` | never offered: `attacks` | never offered: `http3_attacks` |
//! | counting: many at once, accounts, addresses | `policy`, `attacks` | `policy` | `policy` |
//! | parts, conditions, codings | `ranges` | `ranges` | `ranges` |
//! | origins: reading, writing, preflights | `origins` | `origins` | `origins` |

use std::io::Write;

use seaworthy_testkit::http3::raw::{End, Raw, fields, frame};
use seaworthy_testkit::{Client, Sandbox, Site};

use crate::policy::{HOST, clients, site};
use crate::sandbox;

const ROUTES: &str = r#"
[[route]]
paths = ["/*"]
to = "web"

[[route]]
paths = ["/inside/*"]
allow_from = ["10.0.0.0/8"]

[[route]]
paths = ["/hidden"]
block = true

[[route]]
paths = ["/login"]
lockout = { failures = 3, within = "15m", for = "15m", by = ["json:email"], match = [{ status = [401] }] }
"#;

fn with_another() -> Sandbox {
    let sandbox = sandbox();
    sandbox.up(&site(ROUTES));
    let other = "site = \"other\"\ndomains = [\"other.example\"]\n{listen}http3 = true\n[tls]\nmode = \"internal\"\n\
        [service.web]\nrun = \"{fakeapp}\"\nhealth = \"/health\"\n";
    sandbox.up(&Site::new("other").manifest(other));
    sandbox
}

/// What it was answered; none where the client itself would not send it, or was sent away.
fn status(client: &Client, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<u16> {
    client.send(method, target, headers, b"").ok().map(|answer| answer.status)
}

#[test]
fn a_path_with_two_readings_is_nobodys() {
    let sandbox = with_another();
    for (name, client) in clients(&sandbox) {
        for path in [
            "/inside%2fx",
            "/a/..%2finside/x",
            "/a/../inside/x",
            "/a/%2e%2e/inside/x",
            "/./inside/x",
            "/%2e/inside/x",
            "//inside/x",
            "/..;/inside/x",
            "/a/..;x=1/inside/x",
            "/inside%5cx",
            "/inside%00x",
            "/%zz",
            "/%4",
            "/%252e%252e/inside/x",
            "/%252finside/x",
            "/%c0%ae%c0%ae/inside/x",
            "/a%2e%2e%2finside/x",
        ] {
            assert_eq!(status(&client, "GET", path, &[]), Some(400), "{name} {path}");
        }
        // Parameters of a segment: for one reader a part of its name, for another one not.
        for path in ["/inside;a=1/x", "/inside/;a/x", "/hidden;", "/hidden;x=1", "/;/inside/x"] {
            let refused = status(&client, "GET", path, &[]);
            assert!(matches!(refused, Some(400 | 403 | 404)), "{name} {path} {refused:?}");
        }
        for (path, expected) in [
            ("/inside/x", 403),
            ("/hidden", 404),
            ("/%69nside/x", 403),
            ("/%68idden", 404),
            ("/hidden/", 404),
            ("/HIDDEN", 404),
            ("/x", 200),
        ] {
            assert_eq!(status(&client, "GET", path, &[]), Some(expected), "{name} {path}");
        }
    }
}

#[test]
fn what_a_client_says_of_itself_reaches_no_application() {
    let sandbox = with_another();
    let claims: Vec<(&str, &str)> = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-server",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "x-forwarded",
        "x_forwarded_for",
        "x_real_ip",
        "x-forwarded_for",
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "fastly-client-ip",
        "x-envoy-external-address",
        "x-original-forwarded-for",
        "x-original-host",
        "x-original-url",
        "x-rewrite-url",
        "x-host",
        "x-middleware-subrequest",
        "proxy",
        "proxy-authorization",
        "x-request-id",
        "front-end-https",
        "x-scheme",
        "x-url-scheme",
    ]
    .map(|name| (name, "6.6.6.6"))
    .to_vec();
    for (name, client) in clients(&sandbox) {
        let seen = client.send("GET", "/x", &claims, b"").unwrap().json();
        assert!(!seen.to_string().contains("6.6.6.6"), "{name}: {seen}");
        let told = |field: &str| seen["headers"][field].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (told("x-forwarded-for"), told("x-real-ip")),
            ("127.0.0.1".into(), "127.0.0.1".into()),
            "{name}"
        );
        assert_eq!(told("x-forwarded-proto"), "https", "{name}");
        assert!(told("x-forwarded-host").starts_with(HOST), "{name}");
        // Nor does it open a door.
        assert_eq!(
            status(&client, "GET", "/inside/x", &[("x-forwarded-for", "10.0.0.1")]),
            Some(403),
            "{name}"
        );
        assert_eq!(
            status(&client, "GET", "/inside/x", &[("forwarded", "for=10.0.0.1")]),
            Some(403),
            "{name}"
        );
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_kept() {
    let sandbox = with_another();
    let (all, bystander) = (clients(&sandbox), clients(&sandbox)[0].1.clone());
    assert!(all.iter().all(|(_, client)| status(client, "GET", "/x", &[]) == Some(200)));
    let before = sandbox.edge_memory();
    let (long, crumb) = ("x".repeat(70 << 10), "a=b".repeat(20));
    let path = format!("/{}", "x".repeat(17 << 10));
    for (name, client) in &all {
        for (what, expected, target, headers) in [
            ("a long field", 431, "/", vec![("x", long.as_str())]),
            ("many fields", 431, "/", vec![("x", "y"); 120]),
            ("crumbs of a cookie", 431, "/", vec![("cookie", crumb.as_str()); 2_000]),
            ("a long target", 414, path.as_str(), vec![]),
        ] {
            let told = status(client, "GET", target, &headers);
            // A client that was told how much is taken does not send it.
            assert!(told.is_none_or(|told| told == expected), "{name} {what}: {told:?}");
            assert_eq!(bystander.get("/x").status, 200, "{name} {what}");
        }
        // A megabyte that says it is a thousand: it is not unpacked where it would have to be read.
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        (0..64).for_each(|_| bomb.write_all(&vec![b' '; 1 << 20]).unwrap());
        let bomb = bomb.finish().unwrap();
        let packed = client.send("POST", "/login", &[("content-encoding", "gzip")], &bomb);
        assert_eq!(packed.unwrap().status, 415, "{name}");
        let whole = client.send("POST", "/login", &[], &vec![b' '; 80 << 10]);
        assert_eq!(whole.unwrap().status, 413, "{name}");
    }
    let grown = sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} KiB");
}

#[test]
fn a_name_in_the_handshake_and_another_in_the_request_is_no_way_into_another_site() {
    let sandbox = with_another();
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let other = [("host", "other.example")];
    // Over HTTP/1.1 there is one name, over the others two, which must not differ.
    for ((name, client), expected) in clients(&sandbox).into_iter().zip([421, 400, 400]) {
        let told = status(&client, "GET", "/x", &other);
        assert!(told.is_none_or(|told| told == expected), "{name} {told:?}");
    }
    let raw = Raw::open(address, HOST, &ca).unwrap();
    let head =
        [(":method", "GET"), (":scheme", "https"), (":authority", "other.example"), (":path", "/")];
    assert_eq!(raw.ask(&frame(1, &fields(&head)), true), End::Status(421));
    assert_eq!(Client::over_http3(address, "other.example", &ca).get("/").status, 200);
}

//! Parts of files, heads without bodies, files that lie packed beside others: over HTTP/1.1, HTTP/2 and HTTP/3.

use seaworthy_testkit::{Client, Response, Site};

use crate::policy::{HOST, ask, clients};
use crate::sandbox;

/// Digits that say where they stand, long enough to be packed on the way.
fn text() -> String {
    (0..1000).map(|number| format!("{number:04}")).collect::<Vec<_>>().concat()
}

fn site() -> Site {
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\nredirect_domains = [\"www.{HOST}\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n\
         [service.files]\nstatic = \"public\"\n\
         build = \"touch -d '2 days ago' public/old.js.br public/new.js\"\n\
         cache_control = {{ \"/*\" = \"public, max-age=31536000, immutable\" }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"files\"\n\
         [[route]]\npaths = [\"/fixed\"]\nrespond = {{ body = \"fixed\" }}\n\
         [[route]]\npaths = [\"/moved\"]\nredirect = \"/fixed\"\n\
         [[route]]\npaths = [\"/gone\"]\nblock = true\n\
         [[route]]\npaths = [\"/closed\"]\nmaintenance = true\n"
    );
    let mut site = Site::new("shop").manifest(&manifest).file("public/dir/index.html", "dir");
    for name in ["plain.txt", "old.js", "new.js"] {
        site = site.file(&format!("public/{name}"), &text());
    }
    for name in ["old.js.br", "new.js.br"] {
        site = site.file(&format!("public/{name}"), "packed by somebody");
    }
    site
}

fn part(client: &Client, range: &str, more: &[(&str, &str)]) -> Response {
    ask(client, "GET", "/plain.txt", &[&[("range", range)], more].concat())
}

#[test]
fn files_are_sent_in_parts_and_heads_say_what_would_come_over_each_protocol() {
    let sandbox = sandbox();
    sandbox.up(&site());
    for (name, client) in clients(&sandbox) {
        parts(name, &client);
        conditions(name, &client);
        codings(name, &client);
        heads(name, &client);
    }
    // A name that only leads elsewhere is as secure as where it leads.
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let moved = Client::https(address, &format!("www.{HOST}"), &ca).get("/x");
    assert_eq!((moved.status, moved.header("location").unwrap().ends_with("/x")), (308, true));
    let hsts = moved.all("strict-transport-security");
    assert_eq!(hsts, ["max-age=31536000; includeSubDomains"]);
}

fn parts(name: &str, client: &Client) {
    let whole = text();
    for (range, status, told, body) in [
        ("bytes=0-3", 206, "bytes 0-3/4000", "0000"),
        ("BYTES=4-7", 206, "bytes 4-7/4000", "0001"),
        ("bytes=3996-", 206, "bytes 3996-3999/4000", "0999"),
        ("bytes=-4", 206, "bytes 3996-3999/4000", "0999"),
        ("bytes=3996-99999999999999999999", 206, "bytes 3996-3999/4000", "0999"),
        ("bytes=4000-", 416, "bytes */4000", ""),
        ("bytes=-0", 416, "bytes */4000", ""),
        // Several, overlapping, backwards, of another unit, or nonsense: the whole, once.
        ("bytes=0-0,2-2", 200, "", &whole),
        ("bytes=0-,0-,0-,0-,0-,0-,0-,0-", 200, "", &whole),
        ("bytes=0-3999,0-3999", 200, "", &whole),
        ("bytes=9-0", 200, "", &whole),
        ("bytes=+0-3", 200, "", &whole),
        ("bytes=a-b", 200, "", &whole),
        ("pages=0-1", 200, "", &whole),
    ] {
        let answer = part(client, range, &[]);
        let range_told = answer.header("content-range").unwrap_or_default();
        assert_eq!((answer.status, range_told), (status, told), "{name} {range}");
        assert_eq!(answer.text(), body, "{name} {range}");
        // A refusal is not kept for as long as the file.
        assert_eq!(answer.header("cache-control").is_some(), status != 416, "{name} {range}");
    }
    // Two lines are not one.
    let twice = part(client, "bytes=0-0", &[("range", "bytes=2-2")]);
    assert_eq!((twice.status, twice.body.len()), (200, 4000), "{name}");
}

fn conditions(name: &str, client: &Client) {
    let whole = part(client, "bytes=0-3", &[]);
    let etag = whole.header("etag").unwrap().to_owned();
    let weak = format!("W/{etag}");
    let modified = whole.header("last-modified").unwrap().to_owned();
    for (condition, status) in
        [(etag.as_str(), 206), (&weak, 200), ("\"other\"", 200), (&modified, 200)]
    {
        let answer = part(client, "bytes=0-3", &[("if-range", condition)]);
        assert_eq!(answer.status, status, "{name} {condition}");
    }
    for (field, value, status) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", &weak, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 206),
        ("if-modified-since", &modified, 304),
        ("if-match", etag.as_str(), 206),
        ("if-match", "*", 206),
        ("if-unmodified-since", &modified, 206),
        ("if-unmodified-since", "yesterday", 206),
    ] {
        // A condition comes before a range (RFC 9110 § 13.2.2).
        let answer = part(client, "bytes=0-3", &[(field, value)]);
        assert_eq!(answer.status, status, "{name} {field}: {value}");
        let kept = answer.header("cache-control").is_some() && answer.header("vary").is_some();
        assert!(kept, "{name} {field}: {value}");
    }
    // What was begun before the file was replaced does not go on with the new one's bytes.
    let before = "Thu, 01 Jan 2015 00:00:00 GMT";
    for more in [
        &[("if-match", "\"other\"")][..],
        &[("if-match", &weak)],
        &[("if-unmodified-since", before)],
        &[("if-match", "\"other\""), ("if-none-match", &etag)],
    ] {
        let answer = part(client, "bytes=0-3", more);
        assert_eq!((answer.status, answer.body.len()), (412, 0), "{name} {more:?}");
        assert_eq!(answer.header("cache-control"), None, "{name} {more:?}");
    }
    // The tag says more than the time.
    let both = [("if-match", etag.as_str()), ("if-unmodified-since", before)];
    assert_eq!(part(client, "bytes=0-3", &both).status, 206, "{name}");
}

fn codings(name: &str, client: &Client) {
    let get = |target: &str, accept: &str, more: &[(&str, &str)]| {
        ask(client, "GET", target, &[&[("accept-encoding", accept)], more].concat())
    };
    // A part of what lies packed is a part of the packed bytes, and says so.
    let packed = get("/new.js", "br", &[("range", "bytes=0-5")]);
    let coding = packed.header("content-encoding");
    assert_eq!(
        (packed.status, coding, packed.text().as_str()),
        (206, Some("br"), "packed"),
        "{name}"
    );
    assert_eq!(packed.header("content-range"), Some("bytes 0-5/18"));
    // What was packed before its original was changed is not sent: it is packed anew.
    let fresh = get("/old.js", "br", &[]);
    assert_eq!(fresh.header("content-encoding"), Some("br"), "{name}");
    let mut plain = Vec::new();
    brotli::BrotliDecompress(&mut &fresh.body[..], &mut plain).unwrap();
    assert_eq!(String::from_utf8_lossy(&plain), text(), "{name}");
    // What is unchanged has the validator that it was sent with.
    let whole = get("/plain.txt", "gzip", &[]);
    let etag = whole.header("etag").unwrap();
    let unchanged = get("/plain.txt", "gzip", &[("if-none-match", etag)]);
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(etag)), "{name}");
    assert_eq!(unchanged.all("vary"), ["Accept-Encoding"], "{name}");
    // What is packed on the way has a weak validator and no parts; a part of the plain file is plain.
    let on_the_way = get("/plain.txt", "gzip", &[]);
    let etag = on_the_way.header("etag").unwrap();
    assert!(etag.starts_with("W/") && on_the_way.header("accept-ranges").is_none(), "{name}");
    let part = get("/plain.txt", "gzip", &[("range", "bytes=0-3")]);
    assert_eq!(
        (part.status, part.header("content-encoding"), part.text().as_str()),
        (206, None, "0000")
    );
    let resumed = get("/plain.txt", "gzip", &[("range", "bytes=0-3"), ("if-range", etag)]);
    assert_eq!((resumed.status, resumed.header("content-encoding")), (200, Some("gzip")));
    for accept in [
        "*;q=0, identity;q=0",
        "identity;q=0",
        "gzip;q=0, br;q=0.0, zstd;q=0.000",
        "",
        "deflate",
        ",;q=1,",
    ] {
        let answer = get("/plain.txt", accept, &[]);
        assert_eq!(
            (answer.status, answer.header("content-encoding")),
            (200, None),
            "{name} {accept}"
        );
        assert_eq!(answer.text(), text(), "{name} {accept}");
        assert!(answer.all("vary").contains(&"Accept-Encoding"), "{name} {accept}");
    }
}

/// A head says what the answer to GET says, and has no body (RFC 9110 § 9.3.2).
fn heads(name: &str, client: &Client) {
    let differs = ["date", "x-request-id", "content-length", "transfer-encoding"];
    for target in
        ["/plain.txt", "/new.js", "/dir", "/dir/", "/none", "/fixed", "/moved", "/gone", "/closed"]
    {
        for accept in ["", "gzip", "br"] {
            let headers = [("accept-encoding", accept)];
            let (get, head) =
                (ask(client, "GET", target, &headers), ask(client, "HEAD", target, &headers));
            assert_eq!((head.status, head.body.len()), (get.status, 0), "{name} {target}");
            let told = |answer: &Response| {
                let mut told: Vec<_> = answer
                    .headers
                    .iter()
                    .filter(|(name, _)| !differs.contains(&name.as_str()))
                    .cloned()
                    .collect();
                told.sort();
                told
            };
            assert_eq!(told(&head), told(&get), "{name} {target} {accept}");
            let length = head.header("content-length");
            assert!(
                length.is_none_or(|length| length == get.body.len().to_string()),
                "{name} {target} {length:?}"
            );
        }
    }
    // A range is for GET only.
    let head = ask(client, "HEAD", "/plain.txt", &[("range", "bytes=0-3")]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("4000")), "{name}");
}

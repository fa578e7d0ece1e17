//! Ways around what a site demands: an account, a path, a method, a host or an address that is written
//! differently, each against the real binary. The application behind is as lax as any that there is.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use seaworthy_testkit::{Client, Response, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// Blind to the case of paths and methods, to slashes at their end; lets in who says `good`.
const APP: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding"):
            while int(self.rfile.readline(), 16):
                self.rfile.readline()
        path = unquote(self.path).split("?")[0].split(";")[0].rstrip("/").lower()
        refused = self.command == "POST" and path.endswith("login") and b"good" not in body
        seen = {"path": self.path, "method": self.command, "ip": self.headers.get("X-Forwarded-For"),
                "host": self.headers.get("Host")}
        text = json.dumps(seen).encode()
        self.send_response(401 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_HEAD = do_PATCH = answer

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

const HOST: &str = "shop.example";

/// A site of that application.
fn site(domains: &str, listen: &str, tls: &str, routes: &str) -> Site {
    let manifest = format!(
        "site = \"shop\"\ndomains = [{domains}]\nredirect_domains = [\"old.example\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n{listen}\n[tls]\nmode = \"{tls}\"\n\
         [service.web]\nrun = \"python3 server.py\"\nstop = {{ grace = \"2s\" }}\n\
         health = {{ ready = {{ path = \"/\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" }} }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n{routes}"
    );
    Site::new("shop")
        .manifest(&manifest)
        .file("server.py", APP)
        .file(".env", "STAFF=änn:pässwörd\n")
}

/// The answer to one guess.
fn guess(client: &Client, (target, kind, body): (&str, &str, &[u8])) -> Response {
    let kind = [("content-type", kind)];
    let headers = if kind[0].1.is_empty() { &kind[..0] } else { &kind[..] };
    client.send("POST", target, headers, body).unwrap()
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const PARTS: &str = "multipart/form-data; boundary=BB";

/// Targets, types and bodies in which an application finds the account `ACC`.
const COUNTED: &[(&str, &str, &str)] = &[
    ("/login", JSON, r#"{"email":"ACC"}"#),
    ("/login", "", r#"{"email":" ACC\u0000"}"#),
    ("/login", JSON, r#"{"em\u0061il":"ACC"}"#),
    ("/login", JSON, r#"{"EMAIL":"ACC"}"#),
    ("/login", JSON, r#"{"user":{"email":"ACC"}}"#),
    ("/login", JSON, r#"{"email":{"$eq":"ACC"}}"#),
    ("/login", JSON, r#"{"email":"not CC","email":"ACC"}"#),
    ("/login", JSON, r#"{"email":"\u00c1CC"}"#),
    ("/login", JSON, r#"{"email":"\uff21CC"}"#),
    ("/login", JSON, "\u{feff}{\"email\":\"A\u{ad}CC\"}"),
    ("/login", FORM, "email=ACC"),
    ("/login", FORM, "%65mail=%41CC"),
    ("/login", FORM, "email[]=ACC"),
    ("/login", "application/x-www-form-urlencoded; boundary=x", "email=ACC"),
    ("/login", "", "x=1;email=ACC"),
    (
        "/login",
        PARTS,
        "--BB\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nACC\r\n--BB--\r\n",
    ),
    ("/login?email=ACC", JSON, "{}"),
    ("/Login", JSON, r#"{"email":"ACC"}"#),
    ("/login/", JSON, r#"{"email":"ACC"}"#),
    ("/LOGIN/;x", JSON, r#"{"email":"ACC"}"#),
    ("/%6Cogin", JSON, r#"{"email":"ACC"}"#),
];

/// The same for programs that read more than others; these are refused.
const REFUSED: &[(&str, &str, &str, u16)] = &[
    ("/login", JSON, r#"{"x":NaN,"email":"ACC"}"#, 400),
    ("/login", JSON, r#"{"x":"\ud800","email":"ACC"}"#, 400),
    ("/login", JSON, r#"/**/{"email":"ACC"}"#, 400),
    ("/login", JSON, "{\0\"\0e\0m\0a\0i\0l\0\"\0:\0\"\0A\0C\0C\0\"\0}\0", 400),
    ("/login", "application/json; charset=utf-16", "{}", 415),
    ("/login", "application/x-www-form-urlencoded; charset=ibm500", "email=ACC", 415),
    (
        "/login",
        PARTS,
        "--BB\r\nContent-Disposition: form-data; x=\"; name=y\"; name=\"email\"\r\n\r\nACC\r\n--BB--\r\n",
        415,
    ),
    (
        "/login",
        PARTS,
        "--BB\r\nContent-Disposition: form-data; name=\"email\"\r\nContent-Transfer-Encoding: base64\r\n\r\nQUND\r\n--BB--\r\n",
        415,
    ),
    ("/login;x", JSON, r#"{"email":"ACC"}"#, 404),
    ("/x/../login", JSON, r#"{"email":"ACC"}"#, 400),
    ("/x%2f..%2flogin", JSON, r#"{"email":"ACC"}"#, 400),
];

/// An account of its own for a case; it begins with an A, which has an accent in some of them.
fn account(protocol: usize, case: usize) -> String {
    format!("Acc-{protocol}-{case}@x")
}

#[test]
fn a_lockout_counts_an_account_however_the_request_is_written() {
    let sandbox = sandbox();
    let lockout = "[[route]]\npaths = [\"/login\"]\nlockout = { failures = 3, by = [\"json:email\"], match = [{ status = [401] }] }\n";
    let domains = format!("\"{HOST}\"");
    sandbox.up(&site(&domains, "https = \"127.0.0.1:0\"\nhttp3 = true", "internal", lockout));
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let clients = [
        Client::https(address, HOST, &ca),
        Client::over_http2(address, HOST, &ca),
        Client::over_http3(address, HOST, &ca),
    ];
    for (protocol, client) in clients.iter().enumerate() {
        for (case, (target, kind, body)) in COUNTED.iter().enumerate() {
            let name = account(protocol, case);
            let written = |text: &str| text.replace("CC", &name[1..]);
            let (target, body) = (written(target), written(body));
            let tried = [0; 3].map(|_| guess(client, (&target, kind, body.as_bytes())).status);
            assert_eq!(tried, [401; 3], "{protocol} {target} {kind} {body}");
            let right = format!("{{\"email\":\"{name}\",\"password\":\"good\"}}");
            let then = guess(client, ("/login", JSON, right.as_bytes())).status;
            assert_eq!(then, 429, "{protocol} {target} {kind} {body}");
        }
        let small = client.send("post", "/login", &[], br#"{"email":"x"}"#).unwrap();
        assert_eq!(small.status, 400, "{protocol}");
        for (target, kind, body, status) in REFUSED {
            let answer = guess(client, (target, kind, body.as_bytes()));
            assert_eq!(answer.status, *status, "{protocol} {target} {kind} {body}");
        }
    }
    successes_of_others(&clients[0]);
}

/// What is answered well and is no log-in of that account leaves its failures as they are.
fn successes_of_others(client: &Client) {
    let ann = r#"{"email":"ann@y"}"#;
    assert_eq!([0; 2].map(|_| guess(client, ("/login", JSON, ann.as_bytes())).status), [401; 2]);
    for body in [
        r#"{"email":["mallory@y","ann@y"],"password":"good"}"#,
        r#"{"email":"mallory@y","x":{"email":"ann@y"},"password":"good"}"#,
    ] {
        assert_eq!(guess(client, ("/login", JSON, body.as_bytes())).status, 200, "{body}");
    }
    let page = client.send("PUT", "/login", &[("content-type", JSON)], ann.as_bytes()).unwrap();
    assert_eq!(page.status, 200);
    assert_eq!(guess(client, ("/login", JSON, ann.as_bytes())).status, 401);
    assert_eq!(guess(client, ("/login", JSON, ann.as_bytes())).status, 429);
}

const DOORS: &str = r#"
[[route]]
paths = ["/api", "/api/*"]
hosts = ["a.shop.example"]
respond = { body = "api of a" }

[[route]]
paths = ["/api/*"]
rewrite = { strip = "/api", prefix = "/v2" }

[[route]]
paths = ["/one*"]
respond = { body = "longer" }

[[route]]
paths = ["/on*"]
priority = 5
respond = { body = "first" }

[[route]]
paths = ["/old/*"]
redirect = "https://new.example$path$query"

[[route]]
paths = ["/small"]
body_limit = "1K"

[[route]]
paths = ["/staff/*"]
auth = { basic = "secret:STAFF" }

[[route]]
paths = ["/limited"]
methods = ["POST"]
limit = "2/h burst 1 by ip"
"#;

/// All that a connection says to these bytes.
fn said(client: &Client, bytes: &[u8]) -> String {
    let mut stream = client.connect().unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A whole request that is the last of its connection.
fn request(line: &str, host: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")
}

/// A piece of a body, and its end.
fn chunked(size: usize) -> String {
    format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n", "x".repeat(size))
}

#[test]
fn hosts_paths_and_methods_are_read_in_one_way_or_refused() {
    let sandbox = sandbox();
    let domains = format!("\"{HOST}\", \"*.{HOST}\", \"::1\"");
    sandbox.up(&site(&domains, "", "off", DOORS));
    let client = Client::http(sandbox.status().http(), HOST);
    let basic = |bytes: &str| format!("Authorization: Basic {bytes}\r\n");
    for (line, host, more, expected) in [
        // Hosts.
        ("GET /x", "SHOP.Example.:8080", "", vec!["200", "\"path\": \"/x\""]),
        ("GET /x", "[0:0:0:0:0:0:0:1]:8080", "", vec!["200"]),
        ("GET /x", "[::2]", "", vec!["421"]),
        ("GET /x", "[::ffff:127.0.0.1]", "", vec!["421"]),
        ("GET /api", "a.shop.example", "", vec!["200", "api of a"]),
        ("GET /api/x", "b.shop.example", "", vec!["200", "\"path\": \"/v2/x\""]),
        ("GET /api", "a.b.shop.example", "", vec!["421"]),
        ("GET /x", "", "", vec!["400"]),
        ("GET /x", "shop.example, evil.example", "", vec!["400"]),
        ("GET /x", "shop.example:99999", "", vec!["400"]),
        ("GET /x", "shop.example", "Host: shop.example\r\n", vec!["400"]),
        ("GET http://shop.example/x", "shop.example:80", "", vec!["200", "\"path\": \"/x\""]),
        ("GET http://shop.example", "shop.example", "", vec!["200", "\"path\": \"/\""]),
        ("GET http://user@shop.example/x", "shop.example", "", vec!["400"]),
        ("GET http://evil.example/x", "shop.example", "", vec!["400"]),
        // Paths.
        ("GET /apix", "shop.example", "", vec!["200", "\"path\": \"/apix\""]),
        ("GET /%61pi/x", "shop.example", "", vec!["200", "\"path\": \"/v2/x\""]),
        ("GET /one", "shop.example", "", vec!["200", "first"]),
        ("GET /a%2fb", "shop.example", "", vec!["400"]),
        ("GET /a/./b", "shop.example", "", vec!["400"]),
        ("GET /a%00", "shop.example", "", vec!["400"]),
        ("GET //evil.example/x", "shop.example", "", vec!["400"]),
        ("GET /x#y", "shop.example", "", vec!["400"]),
        (
            "GET /old/%C3%A9?x=%0d%0aSet-Cookie:1",
            "shop.example",
            "",
            vec!["308", "location: https://new.example/old/%C3%A9?x=%0d%0aSet-Cookie:1\r\n"],
        ),
        ("GET /old/%0d%0aSet-Cookie:1", "shop.example", "", vec!["400"]),
        // Methods.
        ("get /x", "shop.example", "", vec!["400"]),
        ("post /limited", "shop.example", "Content-Length: 0\r\n", vec!["400"]),
        ("POST /limited", "shop.example", "Content-Length: 0\r\n", vec!["200"]),
        ("POST /Limited/", "shop.example", "Content-Length: 0\r\n", vec!["200"]),
        ("POST /LIMITED", "shop.example", "Content-Length: 0\r\n", vec!["429", "ratelimit: "]),
        // Bodies.
        ("POST /small", "shop.example", &chunked(1000), vec!["200"]),
        ("POST /small", "shop.example", &chunked(2000), vec!["413"]),
        ("POST /small", "shop.example", "Content-Length: 2000\r\n", vec!["413"]),
        // Passwords: änn:pässwörd in UTF-8, in Latin-1, none.
        ("GET /staff/x", "shop.example", &basic("w6Rubjpww6Rzc3fDtnJk"), vec!["200"]),
        ("GET /staff/x", "shop.example", &basic("5G5uOnDkc3N39nJk"), vec!["401"]),
        ("GET /STAFF/x", "shop.example", "", vec!["401", "www-authenticate: Basic realm=\"shop"]),
    ] {
        let answer = said(&client, request(line, host, more).as_bytes());
        let status = format!("HTTP/1.1 {} ", expected[0]);
        assert!(answer.starts_with(&status), "{line} {host} {more}: {answer}");
        let lower = answer.to_ascii_lowercase();
        for text in &expected[1..] {
            assert!(lower.contains(&text.to_ascii_lowercase()), "{line}: {text} in {answer}");
        }
    }
}

const FRONT: &str = r#"
[[route]]
paths = ["/inside"]
deny_from = ["10.0.0.0/8"]

[[route]]
paths = ["/login"]
lockout = { failures = 2, by = ["ip"], match = [{ status = [401] }] }
"#;

/// Version 2, with whatever stands behind the length.
fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

#[test]
fn a_balancer_tells_the_address_that_everything_goes_by_and_nobody_else_does() {
    let sandbox = sandbox();
    let domains = format!("\"{HOST}\"");
    let listen = "connections_per_address = 20\nproxy_protocol = [\"127.0.0.3\"]\ntrusted_proxies = [\"127.0.0.4\", \"172.16.0.0/12\"]";
    sandbox.up(&site(&domains, listen, "off", FRONT));
    let at =
        |last: u8| Client::http(sandbox.status().http(), HOST).at(Ipv4Addr::new(127, 0, 0, last));
    let ask = |header: &[u8], target: &str| {
        let request = request(&format!("GET {target}"), HOST, "X-Forwarded-For: 203.0.113.66\r\n");
        said(&at(3), &[header, request.as_bytes()].concat())
    };
    let four = [10, 1, 2, 3, 127, 0, 0, 1, 0x12, 0x67, 0, 80];
    let mapped = [
        &[0; 10][..],
        &[0xff, 0xff, 10, 1, 2, 3],
        &[0; 10],
        &[0xff, 0xff, 127, 0, 0, 1],
        &[1, 2, 0, 80],
    ]
    .concat();
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[1, 2, 0, 80]].concat();
    let with_more = |length: usize| {
        [&four[..], &[4, (length >> 8) as u8, length as u8], &vec![0; length]].concat()
    };
    for (header, ip) in [
        (b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 80\r\n".to_vec(), "10.1.2.3"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 4711 80\r\n".to_vec(), "10.1.2.3"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.3"),
        (b"PROXY UNKNOWN whatever it says\r\n".to_vec(), "127.0.0.3"),
        (version_2(0x21, 0x11, &four), "10.1.2.3"),
        (version_2(0x21, 0x21, &mapped), "10.1.2.3"),
        (version_2(0x21, 0x21, &six), "2001:db8::7"),
        (version_2(0x21, 0x11, &with_more(4000)), "10.1.2.3"),
        (version_2(0x20, 0x00, b""), "127.0.0.3"),
        (version_2(0x20, 0x11, &four), "127.0.0.3"),
        (version_2(0x21, 0x31, &[0; 216]), "127.0.0.3"),
    ] {
        let answer = ask(&header, "/x");
        assert!(answer.contains(&format!("\"ip\": \"{ip}\"")), "{ip}: {answer}");
        let status = if ip.starts_with("10.") { "403" } else { "200" };
        assert!(ask(&header, "/inside").starts_with(&format!("HTTP/1.1 {status} ")), "{ip}");
    }
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 10.1.2.3 127.0.0.1 4711\r\n".to_vec(),
        b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 80 more\r\n".to_vec(),
        b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 80\n".to_vec(),
        b"proxy TCP4 10.1.2.3 127.0.0.1 4711 80\r\n".to_vec(),
        b"PROXY TCP4 010.1.2.3 127.0.0.1 4711 80\r\n".to_vec(),
        [b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat(),
        version_2(0x21, 0x11, &four[..11]),
        version_2(0x31, 0x11, &four),
        version_2(0x22, 0x11, &four),
        version_2(0x21, 0x13, &four),
        version_2(0x21, 0x11, &with_more(60_000)),
        // Cut off: the request would be read as the rest of it.
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &four[..]].concat(),
    ] {
        let answer = ask(&header, "/x");
        assert_eq!(answer, "", "{}", String::from_utf8_lossy(&header));
    }
    // Nobody else may send one: it is no request.
    let header =
        b"PROXY TCP4 10.1.2.3 127.0.0.1 4711 80\r\nGET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    assert!(said(&at(1), header).starts_with("HTTP/1.1 400 "));
    locked(&at(3));
    seats(&at(9), &at(3));
    trusted(&sandbox, &at(4), &at(1));
}

/// A lockout goes by the announced address.
fn locked(balancer: &Client) {
    let try_as = |ip: &str| {
        let request = format!(
            "POST /login HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
        );
        said(balancer, format!("PROXY TCP4 {ip} 127.0.0.1 1 80\r\n{request}").as_bytes())[9..12]
            .to_owned()
    };
    let tried = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"].map(try_as);
    assert_eq!(tried, ["401", "401", "429", "401"]);
}

/// An address holds so many connections, and so does each that a balancer announces.
fn seats(crowd: &Client, balancer: &Client) {
    let hold = |client: &Client, header: &str| {
        let mut stream = client.connect().unwrap();
        let request = format!("{header}GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let mut answer = [0; 12];
        // Who has no seat may find the connection closed before anything was sent.
        let asked = stream.write_all(request.as_bytes());
        let read = asked.and_then(|()| stream.read_exact(&mut answer));
        (read.is_ok() && answer == *b"HTTP/1.1 200").then_some(stream)
    };
    let announced = "PROXY TCP4 192.0.2.50 127.0.0.1 1 80\r\n";
    for (client, header) in [(crowd, ""), (balancer, announced)] {
        let held: Vec<_> = (0..30).filter_map(|_| hold(client, header)).collect();
        assert_eq!(held.len(), 20, "{header}");
        assert!(hold(balancer, "PROXY TCP4 192.0.2.51 127.0.0.1 1 80\r\n").is_some());
        drop(held);
        eventually("its seats are given back", LIMIT, || hold(client, header).is_some());
    }
}

/// A front such as a content delivery network: the rightmost address that is none of its own, and only from it.
fn trusted(sandbox: &Sandbox, front: &Client, stranger: &Client) {
    let seen = |client: &Client, target: &str, claims: &str| {
        let answer = said(client, request(&format!("GET {target}"), HOST, claims).as_bytes());
        let ip = answer.split("\"ip\": \"").nth(1).unwrap_or_default();
        (answer[9..12].to_owned(), ip.split('"').next().unwrap_or_default().to_owned())
    };
    for (claims, ip) in [
        ("X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 10.9.9.9, 203.0.113.9, 172.16.0.1\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9"),
        (
            "X-Forwarded-For: 10.9.9.9, [2001:db8::9]:80\r\nCF-Connecting-IP: 10.9.9.9\r\n",
            "2001:db8::9",
        ),
        (
            "CF-Connecting-IP: 203.0.113.9\r\nTrue-Client-IP: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n",
            "127.0.0.4",
        ),
        ("X-Forwarded-For: 203.0.113.9, nonsense\r\n", "127.0.0.4"),
    ] {
        assert_eq!(seen(front, "/x", claims), ("200".to_owned(), ip.to_owned()), "{claims}");
        assert_eq!(seen(stranger, "/x", claims).1, "127.0.0.1", "{claims}");
    }
    let denied = "X-Forwarded-For: 10.9.9.9\r\n";
    assert_eq!(seen(front, "/inside", denied).0, "403");
    assert_eq!(seen(stranger, "/inside", denied).0, "200");
    // What needs no route is logged with the client's address, too.
    let elsewhere = request("GET /x", "old.example", "X-Forwarded-For: 203.0.113.78\r\n");
    assert!(said(front, elsewhere.as_bytes()).starts_with("HTTP/1.1 308 "));
    eventually("the log names the client", LIMIT, || {
        let log = sandbox.run(["logs", "--access", "--tail", "1000"]).raw_stdout().to_owned();
        log.contains("203.0.113.78")
    });
}

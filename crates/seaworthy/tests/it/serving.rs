//! What real programs see: curl in front of the edge, Python's server behind it, raw bytes.

use std::io::{Read, Write};
use std::process::Command;

use seaworthy_testkit::{Sandbox, Site};

use crate::{sandbox, shop};

/// Python's own server as an application; `keys` are more keys of the service.
fn python(program: &str, keys: &str) -> Site {
    let health = "{ ready = { path = \"/\", every = \"200ms\", timeout = \"1s\", failures = 2, start = \"5s\" } }";
    Site::new("shop")
        .file("server.py", program)
        .more(&format!("[service.web]\nrun = \"python3 server.py\"\nhealth = {health}\nstop = {{ grace = \"2s\" }}\n{keys}\n[[route]]\npaths = [\"/*\"]\nto = \"web\""))
}

/// Sends bytes and reads until the end: the status of the answer, 0 without one.
fn raw(sandbox: &Sandbox, bytes: &[u8]) -> u16 {
    let mut stream = sandbox.https(&shop()).connect().unwrap();
    stream.write_all(bytes).unwrap();
    let mut text = Vec::new();
    // The connection may end without TLS's goodbye: what came before it counts.
    stream.read_to_end(&mut text).ok();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn curl_reads_a_page_over_http_1_and_http_2() {
    let sandbox = sandbox();
    let site = Site::new("shop")
        .more("[service.files]\nstatic = \".\"\n[[route]]\npaths = [\"/*\"]\nto = \"files\"")
        .file("index.html", "<p>hello</p>");
    sandbox.up(&site);
    let url = format!("https://shop.localhost:{}/", sandbox.status().https().port());
    for version in ["1.1", "2"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", &format!("--http{version}"), "-w", "%{http_version}", "--cacert"]);
        let output = curl.arg(sandbox.ca()).arg(&url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = format!("<p>hello</p>{version}");
        assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_unmodified_python_server_that_insists_on_one_port_and_all_addresses_runs_twice() {
    let sandbox = sandbox();
    let program = "from http.server import *\nHTTPServer(('0.0.0.0', 8000), SimpleHTTPRequestHandler).serve_forever()\n";
    sandbox.up(&python(program, "port = 8000\ninstances = 2"));
    let instances = sandbox.status().instances("shop/web");
    let addresses: Vec<_> =
        instances.iter().map(|one| one["listening"]["http"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 2);
    assert_ne!(addresses[0], addresses[1]);
    assert!(addresses.iter().all(|address| address.starts_with("127.0.0.1:")), "{addresses:?}");
    assert_eq!(sandbox.https(&shop()).get("/server.py").text(), program);
}

#[test]
fn paths_and_hosts_that_can_be_read_in_two_ways_are_refused() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let ask = |path: &str, hosts: &str| {
        raw(&sandbox, format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").as_bytes())
    };
    let host = "Host: shop.localhost\r\n";
    for (path, status) in [
        ("/..%2fetc", 400),
        ("/a/../b", 400),
        ("/%2e%2e/x", 400),
        ("/a%00", 400),
        ("/a\\b", 400),
        ("/say?text=fine", 200),
    ] {
        assert_eq!(ask(path, host), status, "{path}");
    }
    assert_eq!(ask("/", "Host: other.localhost\r\n"), 421);
    assert_eq!(ask("/", "Host: shop.localhost\r\nHost: evil\r\n"), 400);
}

//! What a client sees.

use std::process::Command;

use seaworthy_testkit::{Platform, raw};

#[test]
fn https_serves_files_and_http_redirects_to_it() {
    let manifest =
        "site = \"pages\"\ndomains = [\"pages.localhost\"]\n[service.web]\nstatic = \".\"\n";
    let platform = Platform::new(env!("CARGO_BIN_EXE_seaworthy"), manifest);
    platform.file("index.html", "<p>hello</p>");
    platform.up();
    let https = platform.status()["edge"]["https"][0].as_str().unwrap().to_owned();
    let url = format!("https://pages.localhost:{}/", https.rsplit(':').next().unwrap());
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sS", version, "--cacert"])
            .arg(platform.ca())
            .arg(&url)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "<p>hello</p>",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let redirect = platform.get(&platform.http(), "pages.localhost", "/a?b=c");
    assert_eq!(redirect.status, 308);
    let location =
        format!("location: https://pages.localhost:{}/a?b=c", https.rsplit(':').next().unwrap());
    assert!(redirect.head.contains(&location), "{}", redirect.head);
}

#[test]
fn what_clients_say_about_themselves_does_not_reach_the_application() {
    let platform = super::site("");
    platform.up();
    let address = platform.http();
    let request = "GET /x HTTP/1.1\r\nHost: shop.localhost\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nConnection: close\r\n\r\n";
    let answer = raw(&address, request.as_bytes());
    assert_eq!(answer.status, 200);
    assert!(
        !answer.body.contains("6.6.6.6")
            && answer.body.contains("\"x-forwarded-for\": \"127.0.0.1\""),
        "{}",
        answer.body
    );
    let away = platform.get(&address, "shop.localhost", "/away");
    let port = address.rsplit(':').next().unwrap();
    assert!(
        away.head.contains(&format!("location: http://shop.localhost:{port}/home")),
        "{}",
        away.head
    );
}

#[test]
fn paths_and_hosts_that_can_be_read_in_two_ways_are_refused() {
    let platform = super::site("");
    platform.up();
    let address = platform.http();
    for (path, status) in [
        ("/..%2fetc", 400),
        ("/a/../b", 400),
        ("/%2e%2e/x", 400),
        ("/a%00", 400),
        ("/a\\b", 400),
        ("/fine", 200),
    ] {
        assert_eq!(platform.get(&address, "shop.localhost", path).status, status, "{path}");
    }
    assert_eq!(platform.get(&address, "other.localhost", "/").status, 421);
    let two = "GET / HTTP/1.1\r\nHost: shop.localhost\r\nHost: evil\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&address, two.as_bytes()).status, 400);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side() {
    let platform = super::site("port = 8000\ninstances = 2\nenv = { BIND = \"0.0.0.0\" }");
    platform.up();
    let instances = platform.status()["sites"][0]["services"][0]["instances"].clone();
    let ports: Vec<_> = instances
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["listening"]["http"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ports.len(), 2);
    assert!(
        ports[0] != ports[1] && ports.iter().all(|port| port.starts_with("127.0.0.1:")),
        "{ports:?}"
    );
    assert_eq!(platform.get(&platform.http(), "shop.localhost", "/").status, 200);
}

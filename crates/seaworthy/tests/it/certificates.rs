//! Certificates of public authorities, against real ones: Pebble and Caddy's ACME server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_testkit::peers::{Authority, KEY, KEY_NAME, Named, Wish, free_port};
use seaworthy_testkit::{Client, FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox};

/// Where a site is to be, before it is there.
struct Ports {
    http: u16,
    https: u16,
}

fn ports() -> Ports {
    Ports { http: free_port(), https: free_port() }
}

/// A site whose certificate comes from `acme`, with the authority's API trusted.
fn site(ports: &Ports, domains: &str, acme: &str, root: &Path) -> Site {
    let root = std::fs::read_to_string(root).unwrap();
    let manifest = format!(
        "site = \"shop\"\ndomains = {domains}\n[listen]\nhttp = \"127.0.0.1:{}\"\n\
         https = \"127.0.0.1:{}\"\n[tls]\nacme = {{ email = \"ops@sea.test\", ca = \"root.pem\", {acme} }}\n\
         [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n",
        ports.http, ports.https
    );
    Site::new("shop")
        .manifest(&manifest)
        .file("root.pem", &root)
        .file(".env", &format!("TSIG={KEY}\n"))
}

fn client(ports: &Ports, host: &str, root: &Path) -> Client {
    Client::https(([127, 0, 0, 1], ports.https).into(), host, root)
}

/// The certificate of the list's first line.
fn first(sandbox: &Sandbox) -> serde_json::Value {
    let output = sandbox.run(["cert", "list", "--json"]);
    output.success();
    output.json()["certificates"][0].clone()
}

/// Waits until a public certificate is served, and returns it.
#[track_caller]
fn wait_for_certificate(sandbox: &Sandbox, authority: &Authority) -> serde_json::Value {
    let begun = std::time::Instant::now();
    loop {
        let found = first(sandbox);
        if found["state"] == "valid" {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{found:#}\n{}", authority.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_site_gets_its_certificate_by_http_01_and_keeps_its_connections_when_it_is_renewed() {
    let (ports, names, sandbox) = (ports(), Named::start(""), sandbox());
    let wish = Wish { refused_nonces: 20, ..Wish::new(ports.http, ports.https, names.address) };
    let pebble = Authority::pebble(&wish);
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    let site = site(
        &ports,
        "[\"shop.sea.test\", \"www.sea.test\", \"shop.localhost\"]",
        &acme,
        &pebble.api_root(),
    );
    sandbox.up(&site);
    let served = wait_for_certificate(&sandbox, &pebble);
    assert_eq!(served["hosts"], serde_json::json!(["shop.sea.test", "www.sea.test"]));
    let (root, ours) = (pebble.root(), sandbox.ca());
    for host in ["shop.sea.test", "www.sea.test"] {
        assert_eq!(client(&ports, host, &root).get("/").status, 200);
    }
    // A name that only this machine knows has our own authority's, beside it.
    assert_eq!(client(&ports, "shop.localhost", &ours).get("/").status, 200);
    sandbox.run(["cert", "list"]).success().says(["valid", "Pebble", "www.sea.test"]);
    // A connection that is open stays open while another certificate takes over.
    let mut open = client(&ports, "shop.sea.test", &root).connect().unwrap();
    let mut ask = || {
        let request = b"GET / HTTP/1.1\r\nHost: shop.sea.test\r\n\r\n";
        open.write_all(request).unwrap();
        let mut answer = [0; 12];
        std::io::Read::read_exact(&mut open, &mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = [0; 65536];
        let _some = std::io::Read::read(&mut open, &mut rest).unwrap();
    };
    ask();
    sandbox.run(["cert", "renew"]).success().says(["is served, issued by"]);
    ask();
    let renewed = first(&sandbox);
    assert_ne!(renewed["serial"], served["serial"]);
    // What is served is what was issued last, and a restart of everything changes nothing of it.
    sandbox.kill_hard(sandbox.status().control_pid());
    let again = eventually_some("control is back", LIMIT, || {
        let output = sandbox.run(["cert", "list", "--json"]);
        (output.exit_code() == Some(0)).then(|| output.json()["certificates"][0].clone())
    });
    assert_eq!(again["serial"], renewed["serial"]);
    assert_eq!(client(&ports, "shop.sea.test", &root).get("/").status, 200);
}

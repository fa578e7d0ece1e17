//! Certificates of public authorities, against real ones: Pebble and Caddy's ACME server.

mod refused;
mod renewal;

use std::path::Path;
use std::time::Duration;

use seaworthy_testkit::peers::{
    Authority, KEY, KEY_NAME, Named, ROUTE53_KEYS, Route53, Wish, free_port,
};
use seaworthy_testkit::{Client, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox};

/// A key (base64url) that accounts are bound by.
const BINDING: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Where a site is to be, before it is there.
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
}

pub(crate) fn ways_in() -> Ports {
    let http = free_port();
    let https = std::iter::repeat_with(free_port).find(|port| *port != http).unwrap();
    Ports { http, https }
}

/// A site whose certificate comes from `acme`, with the authority's API trusted.
pub(crate) fn public_site(ports: &Ports, domains: &str, acme: &str, root: &Path) -> Site {
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
pub(crate) fn first(sandbox: &Sandbox) -> serde_json::Value {
    let output = sandbox.run(["cert", "list", "--json"]);
    output.success();
    output.json()["certificates"][0].clone()
}

/// Waits until a public certificate is served, and returns it.
#[track_caller]
pub(crate) fn wait_for_certificate(sandbox: &Sandbox, authority: &Authority) -> serde_json::Value {
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
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let wish = Wish { refused_nonces: 20, ..Wish::new(ports.http, ports.https, names.address) };
    let pebble = Authority::pebble(&wish);
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    let site = public_site(
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
        let mut rest = vec![0; 65536];
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

#[test]
fn the_next_authority_is_asked_bound_to_an_account_and_a_wildcard_is_proven_by_a_record() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let binding = ("kid-1".to_owned(), BINDING.to_owned());
    let wish = Wish { binding: Some(binding.clone()), ..Wish::new(1, 1, names.address) };
    let pebble = Authority::pebble(&wish);
    let dead = format!("https://127.0.0.1:{}/directory", free_port());
    let acme = |key: &str| {
        format!(
            "directories = [\"{dead}\", \"{}\"], resolvers = [\"{}\"], eab = {{ kid = \"kid-1\", key = \"{key}\" }}, \
             dns = {{ rfc2136 = {{ server = \"{}\", key = \"{KEY_NAME}\", secret = \"secret:TSIG\" }} }}",
            pebble.directory, names.address, names.address
        )
    };
    let domains = "[\"sea.test\", \"*.sea.test\"]";
    let site = |key: &str| public_site(&ports, domains, &acme(key), &pebble.api_root());
    // With another key the authority that takes bound accounts only refuses, and is quoted.
    sandbox.up(&site("AAAA"));
    let fault = sandbox.wait_for_fault("SW-TLS-003", LIMIT);
    assert!(fault["what"].as_str().unwrap().contains("refused an account"), "{fault:#}");
    sandbox.run(["cert", "list"]).success().says(["waiting", "SW-TLS-003"]);
    sandbox.up(&site(&binding.1));
    let renewed = sandbox.run(["cert", "renew"]);
    renewed
        .success()
        .says(["cannot be reached", "waiting until 1 name servers have _acme-challenge.sea.test"]);
    let served = first(&sandbox);
    assert_eq!(served["hosts"], serde_json::json!(["sea.test", "*.sea.test"]));
    let root = pebble.root();
    for host in ["sea.test", "any.sea.test"] {
        assert_eq!(client(&ports, host, &root).get("/").status, 200);
    }
    // What was written for the proof is gone again.
    assert_eq!(names.ask("TXT", "_acme-challenge.sea.test"), "");
    // A rehearsal asks the first authority only, and changes nothing.
    sandbox.run(["cert", "renew", "--dry-run"]).code(1).says(["SW-TLS-002"]);
    assert_eq!(first(&sandbox)["serial"], served["serial"]);
}

#[test]
fn a_certificate_is_renewed_by_itself_and_one_that_expired_is_said() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let wish = Wish { life: 9, ..Wish::new(ports.http, ports.https, names.address) };
    let mut pebble = Authority::pebble(&wish);
    let acme = format!(
        "directories = [\"{}\"], resolvers = [\"{}\"], challenge = \"tls-alpn-01\"",
        pebble.directory, names.address
    );
    let site = public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root());
    sandbox.up(&site);
    let serial = wait_for_certificate(&sandbox, &pebble)["serial"].clone();
    let root = pebble.root();
    assert_eq!(client(&ports, "shop.sea.test", &root).get("/").status, 200);
    eventually("another certificate by itself", LIMIT, || {
        let now = first(&sandbox);
        now["serial"] != serial && now["state"] == "valid"
    });
    assert_eq!(client(&ports, "shop.sea.test", &root).get("/").status, 200);
    // The authority goes silent: what is served expires, and says so wherever one looks.
    pebble.freeze();
    let fault = sandbox.wait_for_fault("SW-TLS-006", LIMIT);
    assert!(fault["next"][0].as_str().unwrap().contains("cert renew"), "{fault:#}");
    eventually("it has expired", LIMIT, || first(&sandbox)["state"] == "expired");
    eventually("status says so", LIMIT, || {
        sandbox.run(["status"]).stdout().contains("has expired")
    });
    sandbox.run(["cert", "list"]).success().says(["expired", "ago"]);
    pebble.thaw();
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(client(&ports, "shop.sea.test", &root).get("/").status, 200);
    eventually("nothing is wrong any more", LIMIT, || {
        sandbox.status().fault("SW-TLS-006").is_none()
    });
}

#[test]
fn names_that_lead_elsewhere_are_explained_before_an_authority_is_asked() {
    let (ports, sandbox) = (ways_in(), sandbox());
    let names = Named::start("away A 127.0.0.9\nbare TXT \"x\"\nother CAA 0 issue \"ca.example\"");
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    for (name, said) in [
        ("away.sea.test", ["its address 127.0.0.9", "nobody listens on port"]),
        ("bare.sea.test", ["leads nowhere", "has no address"]),
        ("gone.nowhere.test", ["leads nowhere", "Query Refused"]),
    ] {
        let domains = format!("[\"{name}\"]");
        sandbox.up(&public_site(&ports, &domains, &acme, &pebble.api_root()));
        let told = sandbox.run(["cert", "renew", "--dry-run"]);
        told.code(1).says(["SW-TLS-001", name]).says(said);
    }
    assert!(!pebble.said().contains("/order-plz"), "{}", pebble.said());
}

#[test]
fn a_control_that_dies_in_the_middle_costs_no_second_certificate() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let file = sandbox.folder().join("crash");
    let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", file.to_str().unwrap());
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    std::fs::write(&file, "certificate-pending").unwrap();
    let site = public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root());
    sandbox.up(&site);
    let issued = || pebble.said().matches("Issued certificate").count();
    let get = || client(&ports, "shop.sea.test", &pebble.root()).send("GET", "/", &[], b"");
    eventually("the certificate is served", LIMIT, || {
        get().is_ok_and(|answer| answer.status == 200)
    });
    assert!(!file.exists(), "control did not die");
    assert_eq!(issued(), 1);
    // Three who ask at once get one between them; and what was issued is kept before it is served.
    std::fs::write(&file, "certificate-issued").unwrap();
    sandbox.run(["cert", "renew"]).code(1);
    eventually("control is back", LIMIT, || sandbox.try_status().is_some());
    assert_eq!(issued(), 2);
    assert!(!file.exists(), "control did not die");
    let before = first(&sandbox)["serial"].clone();
    let all: Vec<_> = (0..3).map(|_| sandbox.spawn(["cert", "renew"])).collect();
    for one in all {
        one.finish(LIMIT).success();
    }
    assert_ne!(first(&sandbox)["serial"], before);
    assert_eq!(issued(), 3);
    assert_eq!(get().unwrap().status, 200);
}

/// Writes what it is told into the zone, as people's hooks for lego do.
const HOOK: &str = r#"#!/bin/sh
set -e
case "$1" in
  present) change="add $2 1 TXT \"$3\"" ;;
  cleanup) change="delete $2 TXT \"$3\"" ;;
  *) exit 2 ;;
esac
printf 'server 127.0.0.1 %s\nkey hmac-sha256:%s %s\n%s\nsend\n' "$PORT" "$KEY_NAME" "$TSIG" "$change" | nsupdate -v
"#;

#[test]
fn a_program_may_write_the_records_and_is_quoted_when_it_fails() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let pebble = Authority::pebble(&Wish::new(1, 1, names.address));
    let acme = format!(
        "directories = [\"{}\"], resolvers = [\"{}\"], dns = {{ exec = \"sh hook.sh\", \
         env = {{ PORT = \"{}\", KEY_NAME = \"{KEY_NAME}\", TSIG = \"secret:TSIG\" }} }}",
        pebble.directory,
        names.address,
        names.address.port()
    );
    let site = |domains| public_site(&ports, domains, &acme, &pebble.api_root());
    sandbox.up(&site("[\"shop.sea.test\"]").file("hook.sh", HOOK));
    wait_for_certificate(&sandbox, &pebble);
    assert_eq!(client(&ports, "shop.sea.test", &pebble.root()).get("/").status, 200);
    assert_eq!(names.ask("TXT", "_acme-challenge.shop.sea.test"), "");
    // An authority may take a name that was proven a moment ago as proven (Pebble does once in a hundred times,
    // also when told never to): only one that is new has to be written.
    let broken = site("[\"shop.sea.test\", \"new.sea.test\"]");
    sandbox.up(&broken.file("hook.sh", "echo no zone today >&2; exit 3\n"));
    sandbox.run(["cert", "renew"]).code(1).says(["SW-TLS-005", "no zone today", "exit status: 3"]);
}

#[test]
fn caddy_is_an_authority_too() {
    // It looks at ports 80 and 443 only, which are root's: on an address that nobody else has.
    if seaworthy_testkit::peers::unprivileged().is_none() {
        eprintln!("NOT PROVEN: Caddy's authority looks at port 80, which is root's; run as root");
        return;
    }
    let sandbox = sandbox();
    let [a, b] = (std::process::id() as u16 | 1).to_be_bytes();
    let address = format!("127.83.{a}.{b}");
    let names = Named::start(&format!("shop A {address}"));
    let caddy = Authority::caddy(&format!("{address} shop.sea.test"));
    let root = std::fs::read_to_string(caddy.api_root()).unwrap();
    for challenge in ["http-01", "tls-alpn-01"] {
        let manifest = format!(
            "site = \"shop\"\ndomains = [\"shop.sea.test\"]\n[listen]\nhttp = \"{address}:80\"\n\
             https = \"{address}:443\"\n[tls]\nacme = {{ ca = \"root.pem\", directories = [\"{}\"], \
             resolvers = [\"{}\"], challenge = \"{challenge}\" }}\n\
             [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n",
            caddy.directory, names.address
        );
        sandbox.up(&Site::new("shop").manifest(&manifest).file("root.pem", &root));
        let served = wait_for_certificate(&sandbox, &caddy);
        assert!(served["issuer"].as_str().unwrap().contains("Caddy"), "{served:#}");
        let serial = served["serial"].clone();
        sandbox.run(["cert", "renew"]).success();
        assert_ne!(first(&sandbox)["serial"], serial);
        let https = format!("{address}:443").parse().unwrap();
        assert_eq!(Client::https(https, "shop.sea.test", &caddy.root()).get("/").status, 200);
    }
}

#[test]
fn a_release_that_is_still_watched_asks_with_its_own_secrets() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let plain = Wish::new(ports.http, ports.https, names.address);
    let bound = Wish { binding: Some(("kid-1".to_owned(), BINDING.to_owned())), ..plain };
    let pebble = Authority::pebble(&bound);
    let site = |eab: &str| {
        let acme = format!(
            "directories = [\"{}\"], resolvers = [\"{}\"]{eab}",
            pebble.directory, names.address
        );
        let domains = "[\"shop.sea.test\"]\n[deploy]\nwatch = { for = \"10m\" }";
        public_site(&ports, domains, &acme, &pebble.api_root())
            .file(".env", &format!("EAB_KEY={BINDING}\n"))
            .file("release.txt", eab)
    };
    sandbox.up(&site(""));
    sandbox.run(["cert", "renew"]).code(1).says(["takes only accounts that are bound"]);
    let project = sandbox.write(&site(", eab = { kid = \"kid-1\", key = \"secret:EAB_KEY\" }"));
    let _deploy = sandbox.spawn(["deploy".as_ref(), project.as_os_str()]);
    eventually("it is watched", LIMIT, || {
        sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0]["state"] == "watch"
    });
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(client(&ports, "shop.sea.test", &pebble.root()).get("/").status, 200);
}

/// The `toml` blocks of the guide's page.
pub(crate) fn examples() -> Vec<&'static str> {
    let page = include_str!("../../../../docs/guide/tls.md");
    let blocks = page.split("\n```toml\n").skip(1);
    blocks.map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[test]
fn the_guides_examples_of_authorities_bring_certificates() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let key = BINDING;
    let plain = Wish::new(ports.http, ports.https, names.address);
    let bound = Wish { binding: Some(("kid-1".to_owned(), key.to_owned())), ..plain.clone() };
    let (free, bound) = (Authority::pebble(&plain), Authority::pebble(&bound));
    let hook = HOOK
        .replace("$PORT", &names.address.port().to_string())
        .replace("$KEY_NAME", KEY_NAME)
        .replace("$TSIG", KEY);
    let (cloud, (aws_key, aws_secret)) = (Route53::start(&names), ROUTE53_KEYS);
    let secrets = format!(
        "TSIG_KEY={KEY}\nEAB_KEY={key}\nDNS_TOKEN=abcdefghijkl\nAWS_KEY={aws_key}\nAWS_SECRET={aws_secret}\n"
    );
    let all: Vec<_> = examples().into_iter().filter(|text| text.contains("acme")).collect();
    assert!(all.len() > 4, "{all:?}");
    for (number, example) in all.into_iter().enumerate() {
        let pebble = if example.contains("eab") { &bound } else { &free };
        let domains = if example.contains("dns") {
            format!("[\"n{number}.sea.test\", \"*.n{number}.sea.test\"]")
        } else {
            format!("[\"n{number}.sea.test\"]")
        };
        // What the example says, with this test's authority and name server for the world's.
        let tls = example
            .replace("\"zerossl\", \"letsencrypt\"", &format!("\"{}\"", pebble.directory))
            .replace("ns1.example.com:53", &names.address.to_string())
            .replace("acme-updates", KEY_NAME)
            .replace("route53 = {", &format!("route53 = {{ endpoint = \"{}\",", cloud.endpoint))
            .replacen(
                "acme = {",
                &format!("acme = {{ ca = \"root.pem\", resolvers = [\"{}\"],", names.address),
                1,
            );
        let tls = if tls.contains("directories") {
            tls
        } else {
            tls.replacen(
                "acme = {",
                &format!("acme = {{ directories = [\"{}\"],", pebble.directory),
                1,
            )
        };
        let manifest = format!(
            "site = \"shop\"\ndomains = {domains}\n[listen]\nhttp = \"127.0.0.1:{}\"\n\
             https = \"127.0.0.1:{}\"\n{tls}\n[service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n",
            ports.http, ports.https
        );
        let root = std::fs::read_to_string(pebble.api_root()).unwrap();
        let site = Site::new("shop").manifest(&manifest).file("root.pem", &root);
        sandbox.up(&site.file(".env", &secrets).file("dns-hook.sh", &hook));
        let host = format!("n{number}.sea.test");
        eventually(&format!("a certificate by {example}"), LIMIT, || {
            let found = first(&sandbox);
            found["state"] == "valid" && found["hosts"][0] == host
        });
        assert_eq!(client(&ports, &host, &pebble.root()).get("/").status, 200);
    }
}

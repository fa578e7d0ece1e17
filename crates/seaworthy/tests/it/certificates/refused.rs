//! What does not come off at the first go: authorities that see something else, or are asked too often; names at which
//! somebody else answers; records that are long in coming.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use seaworthy_testkit::eventually_some;
use seaworthy_testkit::peers::{Authority, Front, Named, ROUTE53_KEYS, Route53, Wish, free_port};

use super::{client, first, public_site, wait_for_certificate, ways_in};
use crate::clock::with_clock;
use crate::{LIMIT, sandbox};

/// In how many seconds a certificate is asked for again.
fn next_in(found: &serde_json::Value) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    found["next"].as_i64().unwrap() / 1000 - now
}

#[test]
fn a_proof_that_an_authority_does_not_see_is_quoted_and_the_own_authority_goes_on_standing_in() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    // From where it is, the names lead to ports at which nobody listens.
    let pebble = Authority::pebble(&Wish::new(free_port(), free_port(), names.address));
    for (challenge, way) in [("http-01", "port 80 of"), ("tls-alpn-01", "port 443 of")] {
        let acme = format!(
            "directories = [\"{}\"], resolvers = [\"{}\"], challenge = \"{challenge}\"",
            pebble.directory, names.address
        );
        let site = public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root());
        sandbox.up(&site);
        let told = sandbox.run(["cert", "renew"]);
        told.code(1).says(["SW-TLS-004", "could not see the proof", "shop.sea.test: "]);
        told.says([way, "seaworthy cert renew --dry-run"]);
        let found = first(&sandbox);
        assert_eq!(found["state"], "waiting");
        assert!(found["failures"].as_u64().unwrap() > 0, "{found:#}");
        let own = client(&ports, "shop.sea.test", &sandbox.ca());
        assert_eq!(own.get("/").status, 200);
    }
    assert!(!pebble.said().contains("Issued certificate"), "{}", pebble.said());
}

#[test]
fn an_authority_that_is_asked_too_often_is_left_alone_until_it_says() {
    let (ports, names, (sandbox, clock)) = (ways_in(), Named::start(""), with_clock());
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let front = Front::before(&pebble);
    front.limits(Some("Retry-After: 7200\r\n"));
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", front.directory, names.address);
    sandbox.up(&public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root()));
    let fault = sandbox.wait_for_fault("SW-TLS-003", LIMIT);
    assert!(fault.to_string().contains("too many orders of these names"), "{fault:#}");
    let found = first(&sandbox);
    assert!((7000..=7200).contains(&next_in(&found)), "{found:#}");
    // Nobody is asked before, by hand either, and it is said until when.
    let orders = front.orders().len();
    let told = sandbox.run(["cert", "renew"]);
    told.code(1).says(["SW-TLS-003", "asked for patience", "seaworthy cert list"]);
    assert_eq!(front.orders().len(), orders);
    front.limits(None);
    clock.set("+3h");
    wait_for_certificate(&sandbox, &pebble);
    assert_eq!(front.orders().len(), orders + 1);
    assert_eq!(client(&ports, "shop.sea.test", &pebble.root()).get("/").status, 200);
}

#[test]
fn a_name_at_which_another_server_answers_is_explained_with_what_it_said() {
    let (ports, sandbox) = (ways_in(), sandbox());
    let names = Named::start("taken A 127.0.0.8");
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let other = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 8), ports.http)).unwrap();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let mut room = [0; 4096];
            if stream.read(&mut room).is_ok_and(|read| read > 0) {
                let answer =
                    "HTTP/1.1 404 Not Found\r\nServer: Other/1\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).ok();
            }
        }
    });
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    sandbox.up(&public_site(&ports, "[\"taken.sea.test\"]", &acme, &pebble.api_root()));
    let told = sandbox.run(["cert", "renew", "--dry-run"]);
    told.code(1).says(["SW-TLS-001", "its address 127.0.0.8", "answered with 404 by `Other/1`"]);
    assert!(!pebble.said().contains("/order-plz"), "{}", pebble.said());
}

#[test]
fn a_record_that_is_long_in_coming_is_waited_for_before_the_authority_looks() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let pebble = Authority::pebble(&Wish::new(1, 1, names.address));
    let told = sandbox.folder().join("told");
    let acme = format!(
        "directories = [\"{}\"], resolvers = [\"{}\"], dns = {{ exec = \"sh hook.sh\", env = {{ TOLD = \"{}\" }} }}",
        pebble.directory,
        names.address,
        told.display()
    );
    // It says that it wrote; who writes is the test, when it was seen that nobody went on.
    let hook = "echo \"$1 $2 $3\" >> \"$TOLD\"\n";
    std::fs::write(&told, "").unwrap();
    std::fs::set_permissions(&told, PermissionsExt::from_mode(0o666)).unwrap();
    let site = public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root());
    sandbox.up(&site.file("hook.sh", hook));
    let said = || std::fs::read_to_string(&told).unwrap();
    let (name, value) = eventually_some("the record is asked for", LIMIT, || {
        let said = said();
        let mut words = said.lines().next()?.split(' ').skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?))
    });
    // Another value of the same name is none.
    names.add_txt(&name, "another");
    assert_eq!(first(&sandbox)["state"], "waiting");
    names.add_txt(&name, &value);
    wait_for_certificate(&sandbox, &pebble);
    assert_eq!(client(&ports, "shop.sea.test", &pebble.root()).get("/").status, 200);
    assert!(said().contains(&format!("cleanup {name} {value}")), "{}", said());
    assert!(!pebble.said().contains("invalid"), "{}", pebble.said());
}

#[test]
fn a_record_of_the_zone_that_lets_others_issue_is_explained_before_an_order() {
    let (ports, sandbox) = (ways_in(), sandbox());
    // Where a name stands, the zone's wildcard says nothing of what is below it.
    let names = Named::start(
        "other CAA 0 issue \"ca.example\"\nwww.other A 127.0.0.1\n\
         ours CAA 0 issue \"pebble.example\"\nwww.ours A 127.0.0.1",
    );
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let front = Front::before(&pebble);
    front.is_called("pebble.example");
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", front.directory, names.address);
    let site =
        |name: &str| public_site(&ports, &format!("[\"{name}\"]"), &acme, &pebble.api_root());
    sandbox.up(&site("www.other.sea.test"));
    let told = sandbox.run(["cert", "renew", "--dry-run"]);
    told.code(1).says([
        "SW-TLS-003",
        "a CAA record of `www.other.sea.test`",
        "it names `ca.example`",
    ]);
    told.says(["add to the zone: CAA 0 issue \"pebble.example\""]);
    assert!(front.orders().is_empty());
    sandbox.up(&site("www.ours.sea.test"));
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(first(&sandbox)["hosts"], serde_json::json!(["www.ours.sea.test"]));
}

#[test]
fn a_provider_of_records_that_does_not_take_our_signature_is_quoted() {
    let (ports, names, sandbox) = (ways_in(), Named::start(""), sandbox());
    let pebble = Authority::pebble(&Wish::new(1, 1, names.address));
    let (cloud, (key, secret)) = (Route53::start(&names), ROUTE53_KEYS);
    let acme = format!(
        "directories = [\"{}\"], resolvers = [\"{}\"], dns = {{ route53 = {{ endpoint = \"{}\", \
         key = \"secret:AWS_KEY\", secret = \"secret:AWS_SECRET\" }} }}",
        pebble.directory, names.address, cloud.endpoint
    );
    let site = |secret: &str| {
        let values = format!("AWS_KEY={key}\nAWS_SECRET={secret}\n");
        public_site(&ports, "[\"*.sea.test\"]", &acme, &pebble.api_root()).file(".env", &values)
    };
    sandbox.up(&site("an0ther/key+"));
    let told = sandbox.run(["cert", "renew"]);
    told.code(1).says(["SW-TLS-005", "Route 53 answered 403: SignatureDoesNotMatch"]);
    assert!(!told.to_string().contains("an0ther"), "{told}");
    sandbox.up(&site(secret));
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(first(&sandbox)["hosts"], serde_json::json!(["*.sea.test"]));
}

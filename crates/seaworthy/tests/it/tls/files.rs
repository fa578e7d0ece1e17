//! Certificates from files where more than one pair is in play: two releases of a site, and files that are broken when
//! control starts. That files are read again when they change: `tls`.

use std::os::unix::net::UnixStream;

use seaworthy_edge::model::{MAX_MESSAGE, Reply, Request};
use seaworthy_sys::fdpass;
use seaworthy_testkit::peers::{Place, make_certificate};
use seaworthy_testkit::{Client, Sandbox, Site, eventually};

use super::openssl;
use crate::{LIMIT, sandbox};

/// A pair for `localhost`, and its root.
struct Made(Place);

impl Made {
    fn new() -> Self {
        let place = Place::new();
        make_certificate(place.path());
        Self(place)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// The files, under these names.
    fn beside(&self, site: Site, cert: &str, key: &str) -> Site {
        site.file(cert, &self.text("api.pem")).file(key, &self.text("api.key"))
    }

    /// Whether it is what a visitor of that name is shown.
    fn is_shown(&self, sandbox: &Sandbox, host: &str) -> bool {
        let root = self.0.path().join("root.pem");
        Client::https(sandbox.status().https(), host, &root).try_get("/").is_ok()
    }
}

fn site(name: &str, host: &str, cert: &str, key: &str) -> Site {
    let watch = if cert == "b.pem" { "watch = { for = \"10m\" }\n" } else { "" };
    Site::new(name).manifest(&format!(
        "site = \"{name}\"\ndomains = [\"{host}\"]\n{{listen}}[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
         [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\nenv = {{ LEVEL = \"{cert}\" }}\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n\
         [deploy]\nstrategy = \"blue-green\"\n{watch}"
    ))
}

/// The version of the certificates in the edge: it grows whenever it is given any.
fn given(sandbox: &Sandbox) -> u64 {
    let run = std::fs::read_dir(sandbox.folder().join("run")).unwrap().flatten();
    let sockets = run.map(|entry| entry.path());
    let sockets = sockets.filter(|path| path.to_string_lossy().contains("/edge-"));
    let newest = sockets.filter_map(|path| UnixStream::connect(path).ok()).last().unwrap();
    fdpass::send_message(&newest, &serde_json::to_vec(&Request::Status).unwrap(), &[]).unwrap();
    let (payload, _) = fdpass::receive_message(&newest, MAX_MESSAGE).unwrap().unwrap();
    let status = match serde_json::from_slice(&payload).unwrap() {
        Reply::Status(status) => Some(status),
        _ => None,
    };
    status.unwrap().keys
}

#[test]
fn two_releases_may_name_different_files_and_the_edge_is_given_each_once() {
    let sandbox = sandbox();
    let (one, two, third) = (Made::new(), Made::new(), Made::new());
    let both = |site: Site| two.beside(one.beside(site, "a.pem", "a.key"), "b.pem", "b.key");
    let shop = |letter: &str| {
        both(site("shop", "localhost", &format!("{letter}.pem"), &format!("{letter}.key")))
    };
    sandbox.up(&shop("a"));
    // Another site, by which the clock is seen to go on.
    let other = site("other", "other.localhost", "c.pem", "c.key");
    sandbox.up(&third.beside(other.clone(), "c.pem", "c.key"));
    let project = sandbox.write(&shop("b"));
    let mut deploy = sandbox.spawn(["deploy".as_ref(), project.as_os_str(), "--pause".as_ref()]);
    deploy.wait_for_text("paused: seaworthy promote", LIMIT);

    let before = given(&sandbox);
    for round in 0..2 {
        let mixed = third.beside(other.clone(), "c.pem", "c.key");
        sandbox.write(&mixed.clone().file("c.key", &one.text("api.key")));
        let says = |that: bool| {
            let fault = sandbox.status().fault("SW-TLS-007");
            fault.is_some_and(|fault| fault.to_string().contains("belongs to another") == that)
        };
        eventually(&format!("the clock goes on, {round}"), LIMIT, || says(true));
        sandbox.write(&mixed.file("c.pem", "rubbish"));
        eventually(&format!("and on, {round}"), LIMIT, || says(false));
    }
    assert_eq!(given(&sandbox), before, "the edge was given the same certificates again");

    // Before the switch, and while the new release is watched, its files are looked at as well, and what they hold is
    // what is shown of a name that both have.
    let renew = |made: &Made| sandbox.write(&made.beside(shop("b"), "b.pem", "b.key"));
    let (fresh, fresher) = (Made::new(), Made::new());
    renew(&fresh);
    eventually("new files are served before", LIMIT, || fresh.is_shown(&sandbox, "localhost"));
    sandbox.run(["promote", "shop"]).success();
    eventually("it is watched", LIMIT, || {
        sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0]["state"] == "watch"
    });
    renew(&fresher);
    eventually("new files are served after", LIMIT, || fresher.is_shown(&sandbox, "localhost"));
}

#[test]
fn a_pair_that_somebody_looks_at_before_it_is_served_is_served_all_the_same() {
    let sandbox = sandbox();
    let with =
        |made: &Made| made.beside(site("shop", "localhost", "a.pem", "a.key"), "a.pem", "a.key");
    sandbox.up(&with(&Made::new()));
    for round in 0..3 {
        let renewed = Made::new();
        sandbox.write(&with(&renewed));
        sandbox.run(["cert", "list"]).success();
        eventually(&format!("the new pair is served, {round}"), LIMIT, || {
            renewed.is_shown(&sandbox, "localhost")
        });
    }
}

#[test]
fn a_release_with_other_files_is_seen_by_who_names_no_server_and_by_jobs_of_the_one_before() {
    let (sandbox, one, two) = (sandbox(), Made::new(), Made::new());
    let shop = |name: &str, host: &str, letter: &str, strategy: &str| {
        let manifest = format!(
            "site = \"{name}\"\ndomains = [\"{host}\"]\n{{listen}}[tls]\ncert = \"{letter}.pem\"\nkey = \"{letter}.key\"\n\
             [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\nenv = {{ LEVEL = \"{letter}\" }}\n\
             [job.look]\nat = \"04:00\"\nget = \"/health\"\n[deploy]\nstrategy = \"{strategy}\"\n"
        );
        two.beside(
            one.beside(Site::new(name).manifest(&manifest), "a.pem", "a.key"),
            "b.pem",
            "b.key",
        )
    };
    // An address is no server name: after the switch the smoke test is shown what is for whoever names none.
    sandbox.up(&shop("bare", "127.0.0.1", "a", "recreate"));
    sandbox.up(&shop("bare", "127.0.0.1", "b", "recreate"));
    sandbox.up(&shop("shop", "localhost", "a", "blue-green"));
    let project = sandbox.write(&shop("shop", "localhost", "b", "blue-green"));
    let mut deploy = sandbox.spawn(["deploy".as_ref(), project.as_os_str(), "--pause".as_ref()]);
    deploy.wait_for_text("paused: seaworthy promote", LIMIT);
    assert!(two.is_shown(&sandbox, "localhost"));
    sandbox.run(["job", "run", "shop/look"]).success();
}

#[test]
fn files_that_are_broken_when_control_starts_hold_up_no_other_site() {
    let (sandbox, made) = (sandbox(), Made::new());
    let shop = made.beside(site("shop", "localhost", "a.pem", "a.key"), "a.pem", "a.key");
    sandbox.up(&shop);
    let other = Site::new("other").app("web", seaworthy_testkit::FakeApp::new());
    sandbox.up(&other);
    sandbox.write(&shop.clone().file("a.key", "rubbish"));
    sandbox.wait_for_fault("SW-TLS-007", LIMIT);
    crate::lose_control_and_edge(&sandbox, &other);
    // The own authority stands in, and it is said.
    let own = Client::https(sandbox.status().https(), "localhost", &sandbox.ca());
    eventually("the site is served", LIMIT, || own.try_get("/health").is_ok());
    let fault = sandbox.wait_for_fault("SW-TLS-007", LIMIT);
    assert!(fault.to_string().contains("own authority is served in its place"), "{fault:#}");
    // Nobody else's deployment fails for it.
    sandbox.up(&Site::new("third").app("web", seaworthy_testkit::FakeApp::new()));
    sandbox.write(&shop);
    eventually("what was mended is served", LIMIT, || made.is_shown(&sandbox, "localhost"));
    eventually("nothing is wrong any more", LIMIT, || {
        sandbox.status().fault("SW-TLS-007").is_none()
    });
}

#[test]
fn authorities_that_are_gone_hold_up_no_other_site_and_let_nobody_in() {
    let (sandbox, made) = (sandbox(), Made::new());
    let keys = "[tls]\nclients = { ca = \"clients.pem\" }\n[outgoing.far]\nto = \"https://far.localhost:9\"\nca = \"far.pem\"\n";
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n{{listen}}{keys}[service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n"
    );
    let root = made.text("root.pem");
    let shop = Site::new("shop").manifest(&manifest).file("clients.pem", &root);
    let shop = shop.file("far.pem", &root);
    let (other, third) = (
        Site::new("other").app("web", seaworthy_testkit::FakeApp::new()),
        Site::new("third").app("web", seaworthy_testkit::FakeApp::new()),
    );
    // A release whose own are none is refused.
    let unfit = shop.clone().file("clients.pem", "rubbish");
    sandbox.try_up(&unfit).code(1).says(["SW-TLS-007", "holds no authorities"]);
    sandbox.up(&shop);
    let showing = || {
        let [cert, key] = ["api.pem", "api.key"].map(|name| made.0.path().join(name));
        let (address, ca) = (sandbox.status().https(), sandbox.ca());
        Client::https_showing(address, "shop.localhost", &ca, (&cert, &key))
    };
    assert_eq!(showing().get("/health").status, 200);
    let project = sandbox.folder().join("p/shop");
    for name in ["clients.pem", "far.pem"] {
        std::fs::remove_file(project.join(name)).unwrap();
    }
    // The last ones go on, whoever else deploys.
    sandbox.up(&other);
    let fault = sandbox.wait_for_fault("SW-RUN-002", LIMIT);
    assert!(fault.to_string().contains("named before are trusted"), "{fault:#}");
    assert_eq!(showing().get("/health").status, 200);

    crate::lose_control_and_edge(&sandbox, &other);
    sandbox.up(&third);
    eventually("it is said", LIMIT, || {
        let fault = sandbox.status().fault("SW-RUN-002");
        fault.is_some_and(|fault| fault.to_string().contains("no client's certificate is accepted"))
    });
    assert!(showing().try_get("/health").is_err(), "nobody can prove to be one of nobody's");
    let bare = Client::https(sandbox.status().https(), "shop.localhost", &sandbox.ca());
    assert!(bare.try_get("/health").is_err(), "a certificate is still demanded");
    sandbox.write(&shop);
    eventually("what was mended is trusted", LIMIT, || {
        showing().try_get("/health").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn files_that_are_for_other_names_or_have_expired_are_served_and_said() {
    let (sandbox, clock) = crate::clock::with_clock();
    let place = Place::new();
    let mut make = std::process::Command::new("openssl");
    make.current_dir(place.path()).args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
    make.args(["ec_paramgen_curve:P-256", "-nodes", "-days", "10", "-subj", "/CN=localhost"]);
    make.args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "api.key", "-out", "api.pem"]);
    assert!(make.output().unwrap().status.success());
    let made = Made(place);
    let with = |host: &str| made.beside(site("shop", host, "a.pem", "a.key"), "a.pem", "a.key");
    sandbox.up(&with("other.localhost"));
    let fault = sandbox.wait_for_fault("SW-TLS-007", LIMIT);
    let said = fault.to_string();
    assert!(said.contains("is not for `other.localhost`") && said.contains("it is for localhost"));
    sandbox.up(&with("localhost"));
    eventually("nothing is wrong any more", LIMIT, || {
        sandbox.status().fault("SW-TLS-007").is_none()
    });
    for (later, what) in [("+228h", "expires in"), ("+11d", "has expired")] {
        clock.set(later);
        eventually(&format!("it {what}"), LIMIT, || {
            let fault = sandbox.status().fault("SW-TLS-006");
            fault.is_some_and(|fault| {
                let said = fault.to_string();
                said.contains(what) && said.contains("put a new one in `a.pem`")
            })
        });
    }
    sandbox.run(["cert", "list"]).success().says(["expired", "ago", "files"]);
    // A browser's warning says more than a closed port: it is still what is shown.
    let shown = openssl(&sandbox, "localhost", &["-partial_chain"]);
    assert!(shown.contains("CN = localhost") && shown.contains("\nHTTP/1.1"), "{shown}");
}

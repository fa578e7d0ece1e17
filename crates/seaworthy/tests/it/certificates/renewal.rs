//! Renewal information (RFC 9773) and profiles, end to end: a front that knows both stands before Pebble.

use std::time::{SystemTime, UNIX_EPOCH};

use seaworthy_testkit::peers::{Authority, Front, Named, Renewal, Wish};
use seaworthy_testkit::{Sandbox, Site, eventually, eventually_some};

use super::{Ports, client, first, public_site, wait_for_certificate, ways_in};
use crate::clock::with_clock;
use crate::{LIMIT, sandbox};

const DAY: i64 = 86_400;
/// Where an authority says why it wants certificates renewed before their time.
const WHY: &str = "https://ca.example/incidents/7?lang=en";

/// Pebble behind its front, and the ways in to a site that asks there.
struct Stage {
    ports: Ports,
    names: Named,
    pebble: Authority,
    front: Front,
}

impl Stage {
    /// Certificates live for so many seconds.
    fn new(life: u32) -> Self {
        let (ports, names) = (ways_in(), Named::start(""));
        let wish = Wish { life, ..Wish::new(ports.http, ports.https, names.address) };
        let pebble = Authority::pebble(&wish);
        let front = Front::before(&pebble);
        Self { ports, names, pebble, front }
    }

    fn site(&self, more: &str) -> Site {
        let acme = format!(
            "directories = [\"{}\"], resolvers = [\"{}\"]{more}",
            self.front.directory, self.names.address
        );
        public_site(&self.ports, "[\"shop.sea.test\"]", &acme, &self.pebble.api_root())
    }

    fn is_served(&self) {
        let client = client(&self.ports, "shop.sea.test", &self.pebble.root());
        assert_eq!(client.get("/").status, 200);
    }

    /// The orders that were taken: what they replace, and the profile.
    fn taken(&self) -> Vec<[Option<String>; 2]> {
        let taken = self.front.orders().into_iter().filter(|one| one.status == 201);
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        taken.map(|one| [text(&one.order["replaces"]), text(&one.order["profile"])]).collect()
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// When a certificate will be renewed, in seconds since 1970.
fn next(sandbox: &Sandbox) -> i64 {
    first(sandbox)["next"].as_i64().unwrap() / 1000
}

/// Waits for another certificate, and returns it.
#[track_caller]
fn another(sandbox: &Sandbox, than: &serde_json::Value) -> serde_json::Value {
    eventually_some("another certificate by itself", LIMIT, || {
        let found = first(sandbox);
        (found["serial"] != than["serial"] && found["state"] == "valid").then_some(found)
    })
}

#[test]
fn a_window_that_moves_to_the_past_has_the_certificate_replaced_at_once_and_only_once() {
    let (stage, (sandbox, clock)) = (Stage::new(90 * 86_400), with_clock());
    // Without a word about when to ask again, as the RFC allows.
    stage.front.renewals(Renewal::Window(20 * DAY, 21 * DAY, ""));
    sandbox.up(&stage.site(""));
    let old = wait_for_certificate(&sandbox, &stage.pebble);
    eventually("the window is followed", LIMIT, || {
        (20 * DAY - 600..21 * DAY).contains(&(next(&sandbox) - now()))
    });
    let id = stage.front.asked()[0].clone();
    assert!(!sandbox.run(["cert", "list"]).stdout().contains("as its authority asks"));
    assert_eq!(first(&sandbox).get("explanation"), None);
    stage.front.renewals(Renewal::Window(-7200, -3600, "Retry-After: 21600\r\n"));
    stage.front.explains(WHY);
    clock.set("+1d");
    let new = another(&sandbox, &old);
    let said = format!("the authority asks for an early renewal (why: {WHY})");
    assert!(sandbox.run(["logs", "--control"]).raw_stdout().contains(&said));
    assert_eq!(stage.taken(), [[None, None], [Some(id.clone()), None]]);
    stage.is_served();
    // That the new one is to go, too, is heard, and not obeyed before a day has gone by.
    let of_new = eventually_some("the new one is asked about", LIMIT, || {
        stage.front.asked().last().cloned().filter(|last| *last != id)
    });
    eventually("it is renewed in a day", LIMIT, || {
        (DAY..2 * DAY + 600).contains(&(next(&sandbox) - now()))
    });
    assert_eq!(first(&sandbox)["serial"], new["serial"]);
    assert_eq!(first(&sandbox)["explanation"], WHY);
    let line = format!("  renewal as its authority asks: {WHY}");
    assert!(sandbox.run(["cert", "list"]).raw_stdout().lines().any(|one| one == line));
    // What is no link is shown to nobody, and costs no window.
    stage.front.explains("https://ca.example/\u{1b}[2J");
    clock.set("+3d");
    another(&sandbox, &new);
    assert_eq!(stage.taken().pop(), Some([Some(of_new), None]));
    stage.is_served();
    eventually("the third is renewed in a day", LIMIT, || {
        (3 * DAY..4 * DAY + 600).contains(&(next(&sandbox) - now()))
    });
    assert_eq!(first(&sandbox).get("explanation"), None);
}

#[test]
fn an_authority_that_takes_no_replacement_gives_a_certificate_all_the_same() {
    let (stage, sandbox) = (Stage::new(90 * 86_400), sandbox());
    stage.front.renewals(Renewal::Window(20 * DAY, 21 * DAY, "Retry-After: 21600\r\n"));
    sandbox.up(&stage.site(""));
    let old = wait_for_certificate(&sandbox, &stage.pebble);
    stage.front.replaces_nothing();
    sandbox.run(["cert", "renew"]).success();
    assert_ne!(first(&sandbox)["serial"], old["serial"]);
    let statuses: Vec<u16> = stage.front.orders().iter().map(|one| one.status).collect();
    assert_eq!((statuses, stage.taken()), (vec![201, 409, 201], vec![[None, None], [None, None]]));
    stage.is_served();
}

#[test]
fn renewal_information_that_fails_or_lies_leaves_it_at_two_thirds_of_the_life() {
    let (stage, sandbox) = (Stage::new(9), sandbox());
    let problem = r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"who?"}"#;
    let answers = [
        Renewal::Say(500, "", "<h1>oops</h1>"),
        Renewal::Say(404, "Content-Type: application/problem+json\r\n", problem),
        Renewal::Say(200, "Retry-After: 1\r\n", "{\"suggestedWindow\":{\"start\":7}}"),
        Renewal::Window(5, -5, "Retry-After: 1\r\n"),
        Renewal::Window(30 * DAY, 31 * DAY, "Retry-After: 1\r\n"),
    ];
    let mut served = serde_json::json!({});
    for (asked, answer) in answers.into_iter().enumerate() {
        let told = format!("{answer:?}");
        stage.front.renewals(answer);
        if asked == 0 {
            sandbox.up(&stage.site(""));
            served = wait_for_certificate(&sandbox, &stage.pebble);
        } else {
            served = another(&sandbox, &served);
        }
        // As long as it is served it is to be renewed when two thirds of its life are over.
        let life = served["not_after"].as_i64().unwrap() - served["not_before"].as_i64().unwrap();
        let usual = served["not_before"].as_i64().unwrap() + life / 3 * 2;
        eventually(&format!("it is asked for: {told}"), LIMIT, || {
            let found = first(&sandbox);
            if found["serial"] == served["serial"] && found["state"] == "valid" {
                let next = found["next"].as_i64().unwrap();
                assert!((usual..=usual + life / 30).contains(&next), "{told}: {found:#}");
            }
            stage.front.asked().len() > asked
        });
    }
    another(&sandbox, &served);
    stage.is_served();
}

#[test]
fn an_authority_that_never_says_when_is_not_waited_for() {
    let (stage, sandbox) = (Stage::new(15), sandbox());
    stage.front.renewals(Renewal::Hang);
    sandbox.up(&stage.site(""));
    let old = wait_for_certificate(&sandbox, &stage.pebble);
    eventually("it is asked", LIMIT, || !stage.front.asked().is_empty());
    another(&sandbox, &old);
    stage.is_served();
    // So that nobody waits when the test is over.
    stage.front.renewals(Renewal::Absent);
}

#[test]
fn a_profile_is_asked_for_and_one_that_is_not_to_be_had_is_explained() {
    let (stage, sandbox) = (Stage::new(90 * 86_400), sandbox());
    let offered = ["classic", "shortlived", "retired"];
    stage.front.profiles(&offered, &offered[..2]);
    let site = |profile: &str| stage.site(&format!(", profile = \"{profile}\""));
    sandbox.up(&site("shrotlived"));
    let fault = sandbox.wait_for_fault("SW-TLS-003", LIMIT);
    assert!(fault["what"].as_str().unwrap().contains("has no profile `shrotlived`"), "{fault:#}");
    let told = sandbox.run(["cert", "renew", "--dry-run"]);
    told.code(1).says([
        "has no profile `shrotlived`",
        "it offers classic, retired, shortlived",
        "[tls]  acme = { profile = \"shortlived\" }",
    ]);
    // One that is offered, and not given.
    sandbox.up(&site("retired"));
    let told = sandbox.run(["cert", "renew", "--dry-run"]);
    told.code(1).says([
        "refused an order",
        "the profile retired is not given any more",
        "choose another `profile` than `retired`",
    ]);
    sandbox.up(&site("shortlived"));
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(stage.taken().pop(), Some([None, Some("shortlived".to_owned())]));
    stage.is_served();
    // An authority without any.
    stage.front.profiles(&[], &[]);
    let told = sandbox.run(["cert", "renew", "--dry-run"]);
    told.code(1).says(["it offers no profiles", "leave `profile` out of `acme` in `[tls]`"]);
    sandbox.up(&stage.site(""));
    sandbox.run(["cert", "renew"]).success();
    assert_eq!(stage.taken().pop(), Some([None, None]));
    stage.is_served();
}

//! The rules of lockouts, attempt by attempt.

use http::HeaderValue;
use http::header::{CONTENT_TYPE, LOCATION};
use seaworthy_base::policy::{self as said, Key, Refusal};

use super::super::fields::Fields;
use super::super::keys::Caller;
use super::*;
use crate::route::CompiledSite;

struct World {
    all: Arc<Lockouts>,
    lockouts: Vec<Arc<Lockout>>,
    site: CompiledSite,
    dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let given = said::Lockout {
        name: "/login".to_owned(),
        failures: 5,
        within: std::time::Duration::from_secs(900),
        locked: std::time::Duration::from_secs(900),
        by: vec![Key::Ip, Key::Json("email".to_owned())],
        refusals: vec![
            Refusal { status: vec![401, 403], ..Refusal::default() },
            Refusal { status: vec![302], location: Some("error=Cred".to_owned()), body: None },
            Refusal { status: vec![207], location: None, body: Some("UNAUTHORIZED".to_owned()) },
        ],
        store: None,
    };
    World {
        all: Arc::new(Lockouts::open(dir.path(), Arc::default())),
        lockouts: vec![Arc::new(Lockout::build("shop", &given))],
        site: CompiledSite::for_tests(&["shop.example"], Vec::new()),
        dir,
    }
}

impl World {
    fn begin(&self, ip: &str, body: &str) -> Result<Box<Attempt>, Refused> {
        self.begin_at(7, ip, body)
    }

    fn begin_at(&self, place: u64, ip: &str, body: &str) -> Result<Box<Attempt>, Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let by = [Key::Json("email".to_owned())];
        let fields = Fields::read(&headers, None, body.as_bytes(), &by).unwrap();
        let ip = ip.parse().unwrap();
        let caller = Caller { ip, headers: &headers, fields: Some(&fields), place };
        let keys = Keys { caller, site: &self.site, hasher: self.all.hasher() };
        begin_by_head(&self.all, &self.lockouts, &keys)?;
        Ok(begin_by_body(&self.all, &self.lockouts, &keys)?.unwrap())
    }

    /// The status that a client sees when the application says `answer`.
    fn try_to_log_in(&self, ip: &str, email: &str, answer: u16) -> u16 {
        match self.begin(ip, &format!("{{\"email\":\"{email}\"}}")) {
            Ok(attempt) => {
                let status = StatusCode::from_u16(answer).unwrap();
                attempt.settle(status, &HeaderMap::new(), &Texts::default());
                answer
            }
            Err(refused) => refused.status.as_u16(),
        }
    }
}

/// An answer that was read to its end.
fn whole(body: &str) -> Texts {
    let mut texts = Texts::of(["UNAUTHORIZED"].into_iter());
    texts.see(body.as_bytes());
    texts.end();
    texts
}

#[test]
fn an_answer_that_is_not_taken_to_its_end_lets_nobody_in() {
    let world = world();
    let leave = |n: u8| {
        let attempt = world.begin(&format!("192.0.2.{n}"), "{\"email\":\"ann@x\"}").unwrap();
        let mut texts = attempt.texts(StatusCode::MULTI_STATUS);
        texts.see(b"UNAUTHOR");
        attempt.settle(StatusCode::MULTI_STATUS, &HeaderMap::new(), &texts);
    };
    (1..=5).for_each(leave);
    assert_eq!(world.try_to_log_in("192.0.2.77", "ann@x", 200), 429);
}

#[test]
fn a_success_forgets_nothing_of_what_failed_elsewhere_too() {
    let world = world();
    let settle = |place: u64, ip: u8, status: StatusCode| {
        let email = "{\"email\":\"ann@x\"}";
        let attempt = world.begin_at(place, &format!("192.0.2.{ip}"), email).unwrap();
        attempt.settle(status, &HeaderMap::new(), &Texts::default());
    };
    (1..=3).for_each(|ip| settle(7, ip, StatusCode::UNAUTHORIZED));
    settle(8, 4, StatusCode::FORBIDDEN);
    settle(8, 5, StatusCode::OK);
    settle(7, 6, StatusCode::UNAUTHORIZED);
    assert!(world.begin("192.0.2.77", "{\"email\":\"ann@x\"}").is_err());
}

#[test]
fn many_addresses_on_one_account_lock_it() {
    let world = world();
    for n in 1..=5 {
        assert_eq!(world.try_to_log_in(&format!("192.0.2.{n}"), "ann@x", 401), 401);
    }
    for name in ["ann@x", " ANN@x ", "Ann@X"] {
        assert_eq!(world.try_to_log_in("192.0.2.77", name, 200), 429, "{name}");
    }
    assert_eq!(world.try_to_log_in("192.0.2.77", "bob@x", 200), 200);
}

#[test]
fn one_address_is_locked_before_it_can_lock_an_account() {
    let world = world();
    for _ in 0..5 {
        assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 401), 401);
    }
    assert_eq!(world.try_to_log_in("192.0.2.1", "bob@x", 200), 429);
    assert_eq!(world.try_to_log_in("192.0.2.2", "ann@x", 200), 200);
}

#[test]
fn one_address_on_many_accounts_is_locked() {
    let world = world();
    for n in 0..5 {
        assert_eq!(world.try_to_log_in("2001:db8::1", &format!("user{n}"), 401), 401);
    }
    // Any address of its /64.
    assert_eq!(world.try_to_log_in("2001:db8::ffff", "other", 401), 429);
}

#[test]
fn success_forgets_the_accounts_failures_and_not_the_addresss() {
    let world = world();
    for _ in 0..4 {
        world.try_to_log_in("192.0.2.1", "ann@x", 401);
    }
    assert_eq!(world.try_to_log_in("192.0.2.2", "ann@x", 200), 200);
    for n in 3..7 {
        assert_eq!(world.try_to_log_in(&format!("192.0.2.{n}"), "ann@x", 401), 401);
    }
    // The attacker's own success in between does not help.
    assert_eq!(world.try_to_log_in("192.0.2.1", "mallory", 200), 200);
    assert_eq!(world.try_to_log_in("192.0.2.1", "bob", 401), 401);
    assert_eq!(world.try_to_log_in("192.0.2.1", "bob", 401), 429);
}

#[test]
fn nobody_elses_success_and_no_page_forgets_an_accounts_failures() {
    let world = world();
    for n in 1..=4 {
        world.try_to_log_in(&format!("192.0.2.{n}"), "ann@x", 401);
    }
    let well = |attempt: Box<Attempt>| {
        attempt.settle(StatusCode::OK, &HeaderMap::new(), &Texts::default())
    };
    // An attacker logs in himself, with the other's name somewhere in what he sends.
    for body in [
        r#"{"email":"ann@x","email":"mallory@x"}"#,
        r#"{"email":"mallory@x","x":{"email":"ann@x"}}"#,
        r#"[{"email":"mallory@x"},{"email":"ann@x"}]"#,
    ] {
        well(world.begin("192.0.2.5", body).unwrap());
    }
    // Something else is answered well, such as the page with the form.
    well(world.begin_at(8, "192.0.2.5", r#"{"email":"ann@x"}"#).unwrap());
    assert_eq!(world.try_to_log_in("192.0.2.6", "ann@x", 401), 401);
    assert_eq!(world.try_to_log_in("192.0.2.7", "ann@x", 200), 429);
}

#[test]
fn a_field_is_counted_once_that_may_stand_in_json_or_in_a_form() {
    let by = |by: &[Key]| {
        let by = by.to_vec();
        let given = said::Lockout {
            name: "x".to_owned(),
            failures: 5,
            within: std::time::Duration::from_secs(900),
            locked: std::time::Duration::from_secs(900),
            by,
            refusals: vec![Refusal { status: vec![401], ..Refusal::default() }],
            store: None,
        };
        Lockout::build("shop", &given).by().len()
    };
    let (json, form) = (Key::Json("email".to_owned()), Key::Form("Email".to_owned()));
    assert_eq!(by(&[Key::Ip, json.clone(), form.clone()]), 2);
    assert_eq!(by(&[json, form, Key::Form("name".to_owned()), Key::User]), 3);
}

#[test]
fn a_failing_application_locks_nobody() {
    let world = world();
    for _ in 0..50 {
        assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 503), 503);
        assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 422), 422);
    }
    // Nor does a client that went away.
    for _ in 0..50 {
        drop(world.begin("192.0.2.1", "{\"email\":\"ann@x\"}").unwrap());
    }
    assert!(world.all.lock().entries.is_empty());
}

#[test]
fn attempts_at_the_same_time_are_no_more_than_one_after_the_other() {
    let world = world();
    let body = "{\"email\":\"ann@x\"}";
    let under_way: Vec<_> = (0..100).filter_map(|_| world.begin("192.0.2.1", body).ok()).collect();
    assert_eq!(under_way.len(), 5);
    let many: Vec<_> =
        (1..100).filter_map(|n| world.begin(&format!("198.51.100.{n}"), body).ok()).collect();
    assert!(many.is_empty());
    under_way
        .into_iter()
        .for_each(|one| one.settle(StatusCode::UNAUTHORIZED, &HeaderMap::new(), &Texts::default()));
    assert_eq!(world.try_to_log_in("192.0.2.1", "bob@x", 200), 429);
}

#[test]
fn guesses_in_one_request_are_counted_one_by_one() {
    let world = world();
    let batch = |n: usize| format!("[{}]", vec!["{\"email\":\"ann@x\"}"; n].join(","));
    assert_eq!(world.begin("192.0.2.1", &batch(6)).unwrap_err().status.as_u16(), 429);
    let four = world.begin("192.0.2.1", &batch(4)).unwrap();
    four.settle(
        StatusCode::MULTI_STATUS,
        &HeaderMap::new(),
        &whole("UNAUTHORIZED UNAUTHORIZED UNAUTHORIZED UNAUTHORIZED"),
    );
    assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 401), 401);
    assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 401), 429);
}

#[test]
fn each_way_of_refusing_counts_and_no_other() {
    let world = world();
    let outcome = |status: u16, location: Option<&'static str>, body: &str| {
        let mut headers = HeaderMap::new();
        headers.extend(location.map(|place| (LOCATION, HeaderValue::from_static(place))));
        world.lockouts[0].outcome(StatusCode::from_u16(status).unwrap(), &headers, &whole(body))
    };
    assert_eq!(outcome(401, None, ""), Outcome::Failure(1));
    assert_eq!(outcome(302, Some("/signin?error=CredentialsSignin"), ""), Outcome::Failure(1));
    assert_eq!(outcome(302, Some("/home"), ""), Outcome::Success);
    assert_eq!(outcome(207, None, "UNAUTHORIZED, UNAUTHORIZED"), Outcome::Failure(2));
    assert_eq!(outcome(207, None, "ok"), Outcome::Success);
    assert_eq!(outcome(400, None, ""), Outcome::Nothing);
    assert_eq!(outcome(502, None, "UNAUTHORIZED"), Outcome::Nothing);
}

#[test]
fn a_lockout_holds_in_another_process_and_after_a_restart() {
    let world = world();
    let beside = Arc::new(Lockouts::open(world.dir.path(), Arc::default()));
    for _ in 0..5 {
        world.try_to_log_in("192.0.2.1", "ann@x", 401);
    }
    let after = Arc::new(Lockouts::open(world.dir.path(), Arc::default()));
    for all in [&beside, &after] {
        let other = World { all: Arc::clone(all), ..self::world() };
        assert_eq!(other.try_to_log_in("192.0.2.1", "ann@x", 200), 429);
        let held = all.list();
        assert_eq!(
            (held.len(), held[0].what.as_str(), held[0].site.as_str()),
            (1, "192.0.2.1", "shop")
        );
        assert!((890..=900).contains(&held[0].left));
    }
    assert_eq!(after.clear(Some("shop"), Some("192.0.2.9")), 0);
    assert_eq!(after.clear(Some("shop"), Some("192.0.2.1")), 1);
    assert_eq!(world.try_to_log_in("192.0.2.1", "ann@x", 200), 200);
    assert!(beside.list().is_empty());
}

#[test]
fn an_account_is_cleared_by_its_name_and_kept_as_a_digest() {
    let world = world();
    for n in 1..=5 {
        world.try_to_log_in(&format!("192.0.2.{n}"), "ann@x", 401);
    }
    let held = world.all.list();
    assert!(held[0].what.starts_with("account "), "{held:?}");
    let text = std::fs::read_to_string(world.dir.path().join("lockouts")).unwrap();
    assert!(!text.contains("ann"), "{text}");
    assert_eq!(world.all.clear(None, Some("Ann@x")), 1);
    assert!(world.all.list().is_empty());
}

#[test]
fn a_damaged_journal_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lockouts"), "{\"secret\":[1,2]}\nnonsense\n{\"key\":7,\"until\":99999999999,\"what\":\"x\"}\n{\"key\":8,").unwrap();
    let all = Lockouts::open(dir.path(), Arc::default());
    assert_eq!(all.list().len(), 1);
    std::fs::write(dir.path().join("lockouts"), b"\xff\xfe").unwrap();
    assert!(Lockouts::open(dir.path(), Arc::default()).list().is_empty());
    assert!(Lockouts::open(&dir.path().join("no/such/place"), Arc::default()).list().is_empty());
}

#[test]
fn the_table_is_bounded() {
    let world = world();
    let lockout = Arc::clone(&world.lockouts[0]);
    for n in 0..MAX_ENTRIES as u64 + 500 {
        let counted = [Counted { key: n + 1, times: 1, by_ip: true }];
        let of = Origin { ip: [192, 0, 2, 1].into(), place: 7 };
        world.all.settle(&lockout, &counted, Outcome::Failure(1), of, 1000);
    }
    assert!(world.all.lock().entries.len() <= MAX_ENTRIES);
    // With its key, as long as it is not locked.
    assert!(size_of::<(u64, Entry)>() <= 64, "{}", size_of::<(u64, Entry)>());
}

//! `store = "redis.X"`: two servers share rates and lockouts; while Redis is gone each counts for itself, says so, and
//! opens nothing.

use seaworthy_testkit::peers::Redis;
use seaworthy_testkit::{Client, FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// Refuses whom it is told to refuse.
fn site(redis: &Redis, url: &str) -> Site {
    let app = "[service.web]\nrun = \"{fakeapp}\"\nhealth = { ready = { path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" } }\n";
    let routes = "[redis.counts]\nurl = \"secret:COUNTS\"\n[limit.shared]\nrate = \"20/24h\"\nstore = \"redis.counts\"\n\
        [limit.narrow]\nrate = \"100/24h\"\nby = \"header:x-name\"\nstore = \"redis.counts\"\n\
        [[route]]\npaths = [\"/*\"]\nto = \"web\"\ncsrf = false\n\
        [[route]]\npaths = [\"/say\"]\nlimit = [\"shared\", \"narrow\"]\n\
        [[route]]\npaths = [\"/status\"]\nlockout = { failures = 4, by = [\"header:x-name\"], match = [{ status = [401] }], store = \"redis.counts\" }\n";
    // It must be there, and be asked.
    assert_eq!(redis.run(&["PING"]), "PONG");
    Site::new("shop")
        .manifest(&format!(
            "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n[tls]\nmode = \"off\"\n{app}{routes}"
        ))
        .file(".env", &format!("COUNTS={url}\n"))
}

fn client(sandbox: &Sandbox) -> Client {
    Client::http(sandbox.status().http(), "shop.localhost")
}

fn passed(sandbox: &Sandbox, count: usize) -> usize {
    let client = client(sandbox);
    let statuses: Vec<u16> = (0..count).map(|_| client.get("/say?text=x").status).collect();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.into_iter().filter(|status| *status == 200).count()
}

fn log_in(sandbox: &Sandbox, name: &str, status: u16) -> u16 {
    let target = format!("/status?code={status}");
    client(sandbox).send("POST", &target, &[("x-name", name)], b"").unwrap().status
}

/// Serves, and has found its Redis.
fn up(sandbox: &Sandbox, site: &Site) {
    sandbox.up(site);
    eventually("Redis is found", LIMIT, || !is_gone(sandbox));
}

fn is_gone(sandbox: &Sandbox) -> bool {
    sandbox.status().fault("SW-EDG-005").is_some()
}

#[test]
fn two_servers_share_a_rate_and_a_lockout_and_go_on_alone_while_redis_is_gone() {
    let mut redis = Redis::on_tcp();
    let one = sandbox();
    let two = one.beside(env!("CARGO_BIN_EXE_seaworthy"));
    let shop = site(&redis, &redis.tcp_url());
    up(&one, &shop);
    up(&two, &shop);
    assert_eq!((passed(&one, 8), passed(&two, 7)), (8, 7));
    let refused = (passed(&one, 8), client(&two).get("/say?text=x"));
    assert_eq!((refused.0, refused.1.status), (5, 429));
    let wait: u64 = refused.1.header("retry-after").unwrap().parse().unwrap();
    assert!((4000..=4320).contains(&wait), "{wait}");
    // Three failures on one, the fourth on the other; locked on both from then on.
    assert_eq!([0; 3].map(|_| log_in(&one, "ann", 401)), [401; 3]);
    eventually("they are counted there", LIMIT, || {
        redis.run(&["--scan", "--pattern", "seaworthy:*:f:*"]).lines().count() == 1
    });
    eventually("all three", LIMIT, || {
        let key = redis.run(&["--scan", "--pattern", "seaworthy:*:f:*"]);
        redis.run(&["GET", &key]) == "3"
    });
    assert_eq!(log_in(&two, "ann", 401), 401);
    eventually("locked there", LIMIT, || {
        redis.run(&["--scan", "--pattern", "seaworthy:*:l:*"]).lines().count() == 1
    });
    assert_eq!([log_in(&one, "ann", 200), log_in(&two, "ann", 200)], [429; 2]);
    assert_eq!([log_in(&one, "bob", 401), log_in(&two, "bob", 200)], [401, 200]);
    // Nothing there names anybody.
    let names = redis.run(&["--scan"]);
    assert!(
        !names.contains("ann") && names.lines().all(|name| name.starts_with("seaworthy:{shop")),
        "{names}"
    );
    assert!(!is_gone(&one) && !is_gone(&two));

    redis.kill();
    eventually("both say that it is gone", LIMIT, || is_gone(&one) && is_gone(&two));
    let shown = one.run(["status"]).raw_stdout().to_owned();
    assert!(shown.contains("`redis.counts` is gone") && !shown.contains("s3cr"), "{shown}");
    // Locked stays locked; each server goes on with what it counted itself.
    assert_eq!([log_in(&one, "ann", 200), log_in(&two, "ann", 200)], [429; 2]);
    // What Redis refused was counted here all the same: 8 and 8, 7 and 1.
    assert_eq!((passed(&one, 20), passed(&two, 20)), (4, 12));
    assert_eq!([0; 4].map(|_| log_in(&one, "eve", 401)), [401; 4]);
    assert_eq!(log_in(&one, "eve", 200), 429);
    redis.launch();
    eventually("it is back", LIMIT, || !is_gone(&one) && !is_gone(&two));
    one.run(["limits", "clear", "--all"]).success();
    two.run(["limits", "clear", "--all"]).success();
    assert_eq!((passed(&one, 15), passed(&two, 15)), (15, 5));
    let rates = || redis.run(&["--scan", "--pattern", "seaworthy:*:r:*"]).lines().count();
    assert_eq!(rates(), 2);
    one.run(["limits", "clear", "127.0.0.1"]).success();
    two.run(["limits", "clear", "127.0.0.1"]).success();
    eventually("it is forgotten there", LIMIT, || rates() == 0);
    assert_eq!(passed(&two, 3), 3);
}

#[test]
fn a_redis_that_says_nothing_costs_little_and_one_that_dies_under_load_nothing() {
    let mut redis = Redis::on_tcp();
    let sandbox = sandbox();
    // By its socket, too: the edge opens up for that.
    let shop = site(&redis, &redis.url());
    up(&sandbox, &shop);
    assert_eq!(passed(&sandbox, 2), 2);
    let more = redis.run(&["--scan", "--pattern", "seaworthy:*:r:*"]);
    assert_eq!(more.lines().count(), 2, "{more}");
    redis.freeze();
    eventually("it is noticed", LIMIT, || passed(&sandbox, 1) <= 1 && is_gone(&sandbox));
    redis.thaw();
    eventually("it is back", LIMIT, || !is_gone(&sandbox));
    // Four clients ask all the time, while it is killed and comes back.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let asked: usize = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|number| {
                let (client, stop) = (client(&sandbox), &stop);
                scope.spawn(move || {
                    let mut asked = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let name = format!("n{number}-{asked}");
                        let answer =
                            client.send("POST", "/status?code=200", &[("x-name", &name)], b"");
                        assert_eq!(answer.unwrap().status, 200);
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for _ in 0..3 {
            redis.kill();
            eventually("it is gone", LIMIT, || is_gone(&sandbox));
            redis.launch();
            eventually("it is back", LIMIT, || !is_gone(&sandbox));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    });
    assert!(asked > 100, "{asked}");
}

#[test]
fn over_tls_it_is_counted_there_and_a_certificate_of_an_unknown_authority_is_refused_and_told() {
    let redis = Redis::over_tls();
    let authority = redis.authority();
    let one = sandbox().env("SSL_CERT_FILE", authority.to_str().unwrap());
    let two = one.beside(env!("CARGO_BIN_EXE_seaworthy"));
    let two = two.env("SSL_CERT_FILE", authority.to_str().unwrap());
    let shop = site(&redis, &redis.tcp_url());
    up(&one, &shop);
    up(&two, &shop);
    assert_eq!((passed(&one, 12), passed(&two, 12)), (12, 8));
    assert_eq!(redis.run(&["--scan", "--pattern", "seaworthy:*:r:*"]).lines().count(), 2);
    assert!(!is_gone(&one) && !is_gone(&two));
    // One that trusts the system's authorities only counts for itself.
    let strict = one.beside(env!("CARGO_BIN_EXE_seaworthy"));
    strict.up(&shop);
    eventually("it says that there is no store", LIMIT, || is_gone(&strict));
    let told = strict.status().fault("SW-EDG-005").unwrap().to_string();
    assert!(told.contains("UnknownIssuer") && told.contains("update-ca-certificates"), "{told}");
    assert!(!told.contains("s3cr"), "{told}");
    assert_eq!(passed(&strict, 21), 20);
}

#[test]
fn a_store_whose_url_is_gone_when_control_starts_holds_up_no_site() {
    let (sandbox, redis) = (sandbox(), Redis::on_tcp());
    let shop = site(&redis, &redis.tcp_url());
    up(&sandbox, &shop);
    let other = Site::new("other").app("web", FakeApp::new());
    sandbox.up(&other);
    std::fs::remove_file(sandbox.folder().join("p/shop/.env")).unwrap();
    crate::lose_control_and_edge(&sandbox, &other);
    // Each server counts for itself.
    assert_eq!(client(&sandbox).get("/say?text=x").status, 200);
    let said = || {
        let output = sandbox.run(["status", "--json"]);
        output.raw_stdout().contains("the URL of `[redis.counts]` cannot be read")
    };
    assert!(said());
    sandbox.up(&Site::new("third").app("web", FakeApp::new()));
    up(&sandbox, &shop);
    eventually("nothing is wrong any more", LIMIT, || !said());
}

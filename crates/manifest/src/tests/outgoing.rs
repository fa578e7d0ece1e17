//! `[outgoing.X]`, and `store` of limits and lockouts.

use std::time::Duration;

use seaworthy_base::outgoing::{Again, Wait};

use super::{messages, try_parse};

const SITE: &str = "[service.web]\nrun = \"x\"\n";

#[test]
fn a_way_out_is_read_with_its_defaults() {
    let text = format!(
        "{SITE}[outgoing.gmail]\nto = \"https://gmail.googleapis.com\"\n\
         [outgoing.pay-in]\nto = \"http://10.0.0.7:9000/v1\"\nconcurrency = 3\nrate = \"300/5m\"\nbreaker = true\n\
         retry = {{ times = 5, for = [429] }}\nhold = {{ calls = 7, for = \"2s\" }}\ntimeout = {{ total = \"9s\" }}\nca = \"ca.pem\""
    );
    let ways = try_parse(&text).unwrap().outgoing;
    let names: Vec<String> = ways.iter().map(crate::site::WayOut::variable).collect();
    assert_eq!(names, ["OUTGOING_GMAIL", "OUTGOING_PAY_IN"]);
    let usual = &ways[0].rules;
    assert_eq!(
        (usual.concurrency, usual.rate, &usual.breaker, usual.total),
        (None, None, &None, None)
    );
    assert_eq!((&usual.retry, &usual.hold), (&Again::default(), &Wait::default()));
    assert_eq!(usual.to.origin(), "https://gmail.googleapis.com");
    let said = &ways[1].rules;
    assert_eq!(
        (said.concurrency, said.rate.unwrap().count, said.breaker.is_some()),
        (Some(3), 300, true)
    );
    assert_eq!(said.retry, Again { times: 5, statuses: vec![429] });
    assert_eq!(said.hold, Wait { calls: 7, age: Duration::from_secs(2) });
    assert_eq!((said.total, ways[1].ca.as_deref()), (Some(Duration::from_secs(9)), Some("ca.pem")));
    assert_eq!(said.to.path, "/v1");
}

#[test]
fn what_cannot_be_done_is_refused_where_it_stands() {
    for (text, message) in [
        ("[outgoing.a]\nrate = \"1/s\"", "needs `to`"),
        ("[outgoing.a]\nto = \"api.example.com\"", "is no address"),
        ("[outgoing.a]\nto = \"https://u:p4ss@h.example\"", "is no address"),
        ("[outgoing.A]\nto = \"https://h.example\"", "a name begins with a letter"),
        (
            "[outgoing.a-b]\nto = \"https://h.example\"\n[outgoing.a_b]\nto = \"https://h.example\"",
            "same variable",
        ),
        ("[outgoing.a]\nto = \"https://h.example\"\nconcurrency = 0", "from 1 to 100000"),
        ("[outgoing.a]\nto = \"https://h.example\"\nrate = \"often\"", "a rate is written"),
        ("[outgoing.a]\nto = \"https://h.example\"\nrate = \"90000/h\"", "counts 10000 at most"),
        ("[outgoing.a]\nto = \"https://h.example\"\nretry = { for = [200] }", "from 400 to 599"),
        ("[outgoing.a]\nto = \"https://h.example\"\nca = \"../ca.pem\"", "project"),
        ("[outgoing.a]\nto = \"https://h.example\"\nverify = false", "unknown key `verify`"),
        ("[limit.a]\nrate = \"1/s\"\nstore = \"main\"", "a store is the name of a `[redis.X]`"),
        (
            "[limit.a]\nrate = \"1/s\"\nstore = \"redis.main\"",
            "there is no `redis.main` to count in",
        ),
        // What could not be read is there all the same.
        (
            "[redis.main]\nurl = 7\n[limit.a]\nrate = \"1/s\"\nstore = \"redis.main\"",
            "it should be text",
        ),
    ] {
        let found = messages(&format!("{SITE}{text}\n"));
        let [only] = &found[..] else { panic!("{text}: {found:?}") };
        assert!(only.contains(message) && !only.contains("p4ss"), "{text}: {only}");
    }
}

//! What anybody may send as events of a browser: counted within bounds, or refused, and told without harm.

use seaworthy_testkit::{Client, FakeApp, Site};

use crate::sandbox;

fn tell(client: &Client, target: &str, body: &str) -> u16 {
    client.send("POST", target, &[("content-type", "text/plain")], body.as_bytes()).unwrap().status
}

#[test]
fn hostile_batches_cost_no_more_than_good_ones_and_break_no_count_over_each_protocol() {
    let sandbox = sandbox();
    let routes = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/events\"]\nto = \"@client-events\"\nlimit = \"10000/s by ip\"\n\
        [[route]]\npaths = [\"/usual\"]\nto = \"@client-events\"\n";
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"shop.example\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n[service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n{routes}"
    );
    sandbox.up(&Site::new("shop").app("web", FakeApp::new()).manifest(&manifest));
    let before = sandbox.edge_memory();
    for (name, client) in crate::policy::clients(&sandbox) {
        let deep = "[".repeat(30_000) + &"]".repeat(30_000);
        for (what, status, body) in [
            ("an empty batch", 204, "{\"events\":[],\"sessionId\":\"s\",\"timestamp\":1}".to_owned()),
            ("nothing", 400, String::new()),
            ("no JSON", 400, "{\"events\":[{\"type\":\"a\",\"value\":NaN}]}".to_owned()),
            ("a number beyond all", 400, "{\"events\":[{\"type\":\"a\",\"value\":1e999}]}".to_owned()),
            ("a number without a measure", 204, "{\"events\":[{\"type\":\"a\",\"value\":1.7e308},{\"type\":\"a\",\"value\":1.7e308}]}".to_owned()),
            ("what is nested deeply", 400, deep.clone()),
            ("what is nested deeply aside", 204, format!("{{\"x\":{deep},\"events\":[]}}")),
            ("too many", 413, format!("{{\"events\":[{}{{\"type\":\"a\"}}]}}", "{\"type\":\"a\"},".repeat(500))),
            ("too much", 413, format!("{{\"events\":[],\"x\":\"{}\"}}", "x".repeat(70_000))),
        ] {
            let told = tell(&client, "/events", &body);
            // How deep is too deep is the reader's to say.
            assert!(told == status || (what.ends_with("aside") && told == 400), "{name} {what}: {told}");
        }
        let packed =
            client.send("POST", "/events", &[("content-encoding", "gzip")], b"\x1f\x8b").unwrap();
        assert_eq!(packed.status, 415, "{name}");
        // Types without end: each batch brings 500 new ones.
        for batch in 0..40 {
            let events: Vec<String> = (0..500)
                .map(|number| format!("{{\"type\":\"{name}.{batch}.{number}\"}}"))
                .collect();
            assert_eq!(
                tell(&client, "/events", &format!("{{\"events\":[{}]}}", events.join(","))),
                204
            );
        }
    }
    let status = sandbox.run(["status", "--json"]).success().json();
    let told = &status["edge"]["client_events"]["shop"];
    let told = told.as_object().unwrap_or_else(|| panic!("{}", status["edge"]["client_events"]));
    assert!(told.len() <= 201, "{} types", told.len());
    assert_eq!((&told["a"]["count"], &told["a"]["sum"]), (&6.into(), &0.0.into()));
    assert!(told["other"]["count"].as_u64().unwrap() > 59_000);
    let grown = sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
    // Where nobody set a limit there is one.
    let (_, client) = &crate::policy::clients(&sandbox)[0];
    let statuses: Vec<u16> = (0..70).map(|_| tell(client, "/usual", "{\"events\":[]}")).collect();
    assert_eq!((statuses[0], statuses[69]), (204, 429), "{statuses:?}");
}

//! `explain`: why a request was answered as it was, why an instance is down.

use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

#[test]
fn a_request_is_explained_by_the_id_that_its_answer_carried() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let answer = sandbox.https(&shop()).get("/status?code=503");
    assert_eq!(answer.status, 503);
    let id = answer.header("x-request-id").unwrap().to_owned();
    eventually("the request is in the access log", LIMIT, || {
        sandbox.run(["explain", "request", &id]).exit_code() == Some(0)
    });
    sandbox.run(["explain", "request", &id]).success().says(["503", "/status", "shop/web/"]);
}

#[test]
fn an_error_of_the_edge_says_nothing_internal_and_is_explained_inside() {
    let sandbox = sandbox();
    sandbox.try_up(&Site::new("shop").app("web", FakeApp::new().crash_loop())).code(1);
    let client = sandbox.https(&shop());
    let answer = client.send("GET", "/", &[("accept", "application/json")], b"").unwrap();
    assert!(matches!(answer.status, 502..=504), "{answer:?}");
    assert!(
        !answer.text().contains("127.0.0.1") && !answer.text().contains("/web"),
        "{}",
        answer.text()
    );
    let id = answer.header("x-request-id").unwrap().to_owned();
    assert!(answer.json().to_string().contains(&id));
    eventually("the request is in the access log", LIMIT, || {
        sandbox.run(["explain", "request", &id]).exit_code() == Some(0)
    });
}

#[test]
fn an_unknown_request_is_said_to_be_one() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["explain", "request", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]).code(1).says(["SW-EDG-004"]);
}

#[test]
fn an_instance_that_is_well_is_said_to_be() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["explain", "instance", "shop/web"]).success().says(["ready"]);
    sandbox.run(["explain", "instance", "shop/nothing"]).code(1).says(["SW-CTL-006"]);
}

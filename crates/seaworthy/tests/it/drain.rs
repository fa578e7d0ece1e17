//! An edge that goes while thousands of clients hold connections to it, and instances hold theirs.

use std::time::Duration;

use seaworthy_testkit::load::Crowd;
use seaworthy_testkit::{Site, eventually, eventually_some};

use crate::{LIMIT, sandbox};

/// As Node comes: it closes connections that were idle for five seconds, without a word.
const NODE: &str = "\
require('http')
  .createServer((request, response) => response.end(request.url))
  .listen(process.env.PORT, '127.0.0.1');
";

const CONNECTIONS: usize = 2_000;

#[test]
fn two_thousand_busy_connections_in_front_of_node_lose_no_request() {
    let sandbox = sandbox();
    let site = Site::new("shop").file("server.js", NODE).more(
        "[service.web]\nrun = \"node server.js\"\ninstances = 2\n\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n",
    );
    sandbox.up(&site);
    let before = sandbox.status();
    // Around the five seconds after which Node closes, so that many a request meets just that moment.
    let crowd = Crowd::start(sandbox.target(&site), CONNECTIONS, Duration::from_secs(5));
    eventually("all are connected and have asked twice", LIMIT * 2, || {
        let now = crowd.so_far();
        now.open == CONNECTIONS && now.answered >= 2 * CONNECTIONS as u64
    });
    sandbox.run(["restart", "--edge"]).success();
    eventually_some("a new edge", LIMIT, || {
        sandbox.try_status().filter(|status| status.edge_pid() != before.edge_pid())
    });
    eventually("everybody was told, and came back", LIMIT * 2, || {
        let now = crowd.so_far();
        now.told_to_close >= CONNECTIONS as u64 && now.open == CONNECTIONS
    });
    let report = crowd.stop();
    assert_eq!((report.lost, &report.reasons[..]), (0, &[][..]));
    assert_eq!(sandbox.status().ready_pids("shop/web"), before.ready_pids("shop/web"));
}

//! Redis.

use seaworthy_backup::{Action, RestoreTarget, Restored, Source};
use seaworthy_testkit::peers::Redis;

use crate::platform::{Platform, take};

const ITEM: &str = "redis.main";

fn source(server: &Redis) -> Source {
    Source::Redis { url: server.url() }
}

/// What a key of each kind holds, and when it ends; not the digest, which tells apart what is equal to a client.
fn content(server: &Redis) -> String {
    let ask = |words: &[&str]| server.run(words);
    [
        ask(&["GET", "text"]),
        ask(&["LRANGE", "list", "0", "-1"]),
        ask(&["ZRANGE", "scores", "0", "-1", "WITHSCORES"]),
        ask(&["HGETALL", "hash"]),
        ask(&["XRANGE", "stream", "-", "+"]),
        ask(&["GET", "line\nend"]),
        ask(&["-n", "3", "GET", "other"]),
        ask(&["EVAL", "return redis.call('GET', 'binary') == '\\0\\255\\r\\n'", "0"]),
        (ask(&["TTL", "ends"]).parse::<i64>().unwrap() > 10_000).to_string(),
        ask(&["DBSIZE"]),
    ]
    .join("\n")
}

#[test]
fn a_dataset_is_fetched_under_writes_lost_and_brought_back() {
    let server = Redis::start();
    for words in [
        &["SET", "text", "value"][..],
        &["RPUSH", "list", "1", "2", "3"],
        &["ZADD", "scores", "1.5", "a", "2", "b"],
        &["HSET", "hash", "f", "v", "g", "w"],
        &["XADD", "stream", "1-1", "k", "v"],
        &["SET", "line\nend", "x\ny"],
        &["SET", "ends", "soon", "EX", "20000"],
        &["-n", "3", "SET", "other", "database"],
        &[
            "EVAL",
            "redis.call('SET', 'binary', '\\0\\255\\r\\n') for n = 1, 5000 do redis.call('SET', 'k' .. n, string.rep('v', 100)) end",
            "0",
        ],
    ] {
        server.run(words);
    }
    let platform = Platform::new();
    let mut writer = server.writes(&"INCR written\n".repeat(3_000_000));
    let first = platform.take(ITEM, &source(&server));
    writer.must_run();
    drop(writer);
    assert!(
        first.set.databases[0].rows["keys that do not expire"] >= 5008,
        "{:?}",
        first.set.databases
    );
    assert_eq!(platform.drill(ITEM, &source(&server)).drill.fault, None);

    let taken = platform.take(ITEM, &source(&server));
    assert_eq!(taken.set.doubts, Vec::<String>::new());
    let before = content(&server);
    server.run(&["FLUSHALL"]);
    let restore = |id: &str, target| Action::Restore {
        set: Some(id.to_owned()),
        at: None,
        store: None,
        target,
        identity: None,
    };
    let id = taken.set.id.as_str();
    let restored: Restored =
        platform.run(ITEM, &source(&server), restore(id, RestoreTarget::InPlace));
    assert_eq!((content(&server), restored.before), (before.clone(), None));

    // Over live data: into other numbers, then swapped; what was there is still there.
    server.run(&["SET", "text", "spoiled"]);
    server.run(&["DEL", "list"]);
    let restored: Restored =
        platform.run(ITEM, &source(&server), restore(id, RestoreTarget::InPlace));
    assert_eq!(content(&server), before);
    let number = restored.before.unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(
        restored.safety.is_some()
            && ["spoiled", "", "database"]
                .contains(&server.run(&["-n", &number, "GET", "text"]).as_str())
    );

    // To another server, once: what is there is never overwritten.
    let other = Redis::start();
    platform.run::<Restored>(
        ITEM,
        &source(&server),
        restore(id, RestoreTarget::To { url: other.url() }),
    );
    assert_eq!(content(&other), before);
    let fault =
        platform.fails(ITEM, &source(&server), restore(id, RestoreTarget::To { url: other.url() }));
    assert_eq!(fault.code.as_str(), "SW-BAK-012");

    let fault =
        platform.fails(ITEM, &Source::Redis { url: server.url().replace("s3cr", "wrong") }, take());
    assert!(fault.code.as_str() == "SW-BAK-002", "{fault:?}");
    platform.assert_tidy();
}

//! What is wrong is named: `status`, `logs` and `explain instance`, each in its whole, for everything that
//! commonly goes wrong with an application.

use std::net::{Ipv4Addr, TcpListener};

use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, assert_text};

use crate::{LIMIT, sandbox, shop};

/// Ends and stays ended for as long as a test looks.
const STAYS: &str = "restart = { backoff_min = \"60s\", backoff_max = \"60s\" }";

/// An application whose lines come in a certain order.
fn app() -> FakeApp {
    FakeApp::new().flag("--one-stream")
}

/// A site of that application that does not come up, with the fault of that code.
fn failed(app: FakeApp, code: &str) -> Sandbox {
    let sandbox = sandbox();
    sandbox.try_up(&Site::new("shop").app("web", app));
    sandbox.wait_for_fault(code, LIMIT);
    sandbox
}

/// Without what depends on the host: guards that it cannot give, how memory is watched, its `PATH`.
fn settled(output: &Output) -> String {
    let text = output.stdout() + &output.stderr();
    let lines = text.lines().filter(|line| !line.starts_with("note "));
    let lines =
        lines.filter(|line| !line.contains("the kernel ended a process of it: out of memory"));
    let line = |line: &str| {
        let seen = line.contains("| it used") || line.contains("| the kernel ended");
        let (indent, _) = line.split_once("| ").unwrap_or_default();
        match line.split_once("| PATH: ") {
            Some((indent, _)) => format!("{indent}| PATH: [DIRECTORIES]"),
            None if seen => format!("{indent}| [MEMORY]"),
            None => line.to_owned(),
        }
    };
    lines.map(line).collect::<Vec<_>>().join("\n")
}

/// What all three say, one below the other.
#[track_caller]
fn says(sandbox: &Sandbox, expected: &str) {
    let mut said = String::new();
    for command in ["status", "explain instance shop/web", "logs shop"] {
        let output = sandbox.run(command.split(' '));
        said.push_str(&format!("$ seaworthy {command}\n{}\n", settled(&output)));
    }
    assert_text("what is said", &said, expected);
}

#[test]
fn the_wrong_port() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sandbox = failed(app().port(free), "SW-RUN-007");
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      starting  pid [PID]  up [DURATION]  [SIZE]
              SW-RUN-007 `shop/web/0@1` listens on the wrong port: [PORT] instead of [PORT]
                caused by: it does not listen where PORT says
                | it was given PORT=[PORT] and listens on 127.0.0.1:[PORT]
                hint: let it listen on $PORT, or say that it insists: port = [PORT]
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` listens on the wrong port: [PORT] instead of [PORT]: it does not listen where PORT says

          state        starting
          release      r1-[DIGEST]
          pid          [PID]
          started      [TIME]
          restarts     0
          memory       [SIZE]
          code         SW-RUN-007

          | it was given PORT=[PORT] and listens on 127.0.0.1:[PORT]

        next: let it listen on $PORT, or say that it insists: port = [PORT]
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err fakeapp: listening on 127.0.0.1:[PORT]
        [TIME] web/0        sys SW-RUN-007 `shop/web/0@1` listens on the wrong port: [PORT] instead of [PORT]
        [TIME] web/0        sys   caused by: it does not listen where PORT says
        [TIME] web/0        sys   | it was given PORT=[PORT] and listens on 127.0.0.1:[PORT]
        [TIME] web/0        sys   hint: let it listen on $PORT, or say that it insists: port = [PORT]
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn a_missing_program() {
    let sandbox = sandbox();
    let site = Site::new("shop").more(&format!("[service.web]\nrun = \"no-such-program --fast\"\n{STAYS}\n[[route]]\npaths = [\"/*\"]\nto = \"web\""));
    sandbox.try_up(&site).code(1);
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      backoff
              SW-RUN-001 `shop/web/0@1` could not be started
                caused by: the program `no-such-program` is not in PATH
                | run: no-such-program --fast
                | PATH: [DIRECTORIES]
                hint: check `run` of the service: is `no-such-program` installed, executable and in PATH for its user?
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` could not be started: the program `no-such-program` is not in PATH

          state        backoff
          release      r1-[DIGEST]
          restarts     0
          last end     could not be executed: the program `no-such-program` is not in PATH ([TIME] after [DURATION])
          code         SW-RUN-001

          | run: no-such-program --fast
          | PATH: [DIRECTORIES]

        next: check `run` of the service: is `no-such-program` installed, executable and in PATH for its user?
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys could not start: the program `no-such-program` is not in PATH
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-001 `shop/web/0@1` could not be started
        [TIME] web/0        sys   caused by: the program `no-such-program` is not in PATH
        [TIME] web/0        sys   | run: no-such-program --fast
        [TIME] web/0        sys   | PATH: [DIRECTORIES]
        [TIME] web/0        sys   hint: check `run` of the service: is `no-such-program` installed, executable and in PATH for its user?
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn a_missing_environment_variable() {
    let sandbox = failed(app().require_env("DATABASE_URL").key(STAYS), "SW-RUN-003");
    says(
        &sandbox,
        r#"
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      backoff
              SW-RUN-003 `shop/web/0@1` ended with code 1
                caused by: the environment variable `DATABASE_URL` is not set
                | it ran for [DURATION] and never listened
                | fakeapp: starting, pid [PID]
                | fakeapp: this line goes to stderr
                | Error: missing required environment variable DATABASE_URL
                hint: add it: env = { DATABASE_URL = "…" } or secrets = ["DATABASE_URL"] in the service
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` ended with code 1: the environment variable `DATABASE_URL` is not set

          state        backoff
          release      r1-[DIGEST]
          restarts     0
          last end     ended with code 1 ([TIME] after [DURATION])
          code         SW-RUN-003

          | it ran for [DURATION] and never listened
          | fakeapp: starting, pid [PID]
          | fakeapp: this line goes to stderr
          | Error: missing required environment variable DATABASE_URL

        next: add it: env = { DATABASE_URL = "…" } or secrets = ["DATABASE_URL"] in the service
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err Error: missing required environment variable DATABASE_URL
        [TIME] web/0        sys it ended with code 1 after [DURATION]
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-003 `shop/web/0@1` ended with code 1
        [TIME] web/0        sys   caused by: the environment variable `DATABASE_URL` is not set
        [TIME] web/0        sys   | it ran for [DURATION] and never listened
        [TIME] web/0        sys   hint: add it: env = { DATABASE_URL = "…" } or secrets = ["DATABASE_URL"] in the service
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        "#,
    );
}

#[test]
fn a_crash_loop() {
    let restart = "restart = { crashes = 2, backoff_min = \"4s\", backoff_max = \"60s\" }";
    let sandbox = failed(app().crash_loop().key(restart), "SW-RUN-009");
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      backoff  restarts 1 (ended with code 1)
              SW-RUN-009 `shop/web/0@1` is in a crash loop: it has ended 2 times
                caused by: `shop/web/0@1` ended with code 1
                caused by: the last that it said: Error: something it cannot live without is broken
                | it ran for [DURATION] and never listened
                | fakeapp: starting, pid [PID]
                | fakeapp: this line goes to stderr
                | Error: something it cannot live without is broken
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` is in a crash loop: it has ended 2 times: `shop/web/0@1` ended with code 1: the last that it said: Error: something it cannot live without is broken

          state        backoff
          release      r1-[DIGEST]
          restarts     1
          last end     ended with code 1 ([TIME] after [DURATION])
          code         SW-RUN-009

          | it ran for [DURATION] and never listened
          | fakeapp: starting, pid [PID]
          | fakeapp: this line goes to stderr
          | Error: something it cannot live without is broken

        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err Error: something it cannot live without is broken
        [TIME] web/0        sys it ended with code 1 after [DURATION]
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-003 `shop/web/0@1` ended with code 1
        [TIME] web/0        sys   caused by: the last that it said: Error: something it cannot live without is broken
        [TIME] web/0        sys   | it ran for [DURATION] and never listened
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err Error: something it cannot live without is broken
        [TIME] web/0        sys it ended with code 1 after [DURATION]
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-009 `shop/web/0@1` is in a crash loop: it has ended 2 times
        [TIME] web/0        sys   caused by: `shop/web/0@1` ended with code 1
        [TIME] web/0        sys   caused by: the last that it said: Error: something it cannot live without is broken
        [TIME] web/0        sys   | it ran for [DURATION] and never listened
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn out_of_memory() {
    let sandbox = failed(app().leak().key("memory = \"64M\"").key(STAYS), "SW-RUN-005");
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      backoff
              SW-RUN-005 `shop/web/0@1` was ended: out of memory
                caused by: it used more than its limit of 64 MiB
                | [MEMORY]
                | it ran for [DURATION] and never listened
                | fakeapp: starting, pid [PID]
                | fakeapp: this line goes to stderr
                hint: raise `memory` of the service in seaworthy.toml, or find what grows
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` was ended: out of memory: it used more than its limit of 64 MiB

          state        backoff
          release      r1-[DIGEST]
          restarts     0
          last end     ended: out of memory ([TIME] after [DURATION])
          code         SW-RUN-005

          | [MEMORY]
          | it ran for [DURATION] and never listened
          | fakeapp: starting, pid [PID]
          | fakeapp: this line goes to stderr

        next: raise `memory` of the service in seaworthy.toml, or find what grows
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        sys it was ended: out of memory after [DURATION]
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-005 `shop/web/0@1` was ended: out of memory
        [TIME] web/0        sys   caused by: it used more than its limit of 64 MiB
        [TIME] web/0        sys   | [MEMORY]
        [TIME] web/0        sys   | it ran for [DURATION] and never listened
        [TIME] web/0        sys   hint: raise `memory` of the service in seaworthy.toml, or find what grows
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn another_address() {
    let sandbox = failed(app().bind(Ipv4Addr::UNSPECIFIED.into()), "SW-RUN-008");
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              1/1 ready
            0@1      ready  pid [PID]  127.0.0.1:[PORT]  up [DURATION]  [SIZE]
              SW-RUN-008 `shop/web/0@1` listens on `0.0.0.0:[PORT]`: it can be reached past the edge
                caused by: it binds an address that others can reach instead of loopback only
                | it listens on 0.0.0.0:[PORT]
                hint: let it listen on 127.0.0.1 (often an option such as --host 127.0.0.1)
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` listens on `0.0.0.0:[PORT]`: it can be reached past the edge: it binds an address that others can reach instead of loopback only

          state        ready
          release      r1-[DIGEST]
          pid          [PID]
          listens on   127.0.0.1:[PORT]
          started      [TIME]
          restarts     0
          memory       [SIZE]
          code         SW-RUN-008

          | it listens on 0.0.0.0:[PORT]

        next: let it listen on 127.0.0.1 (often an option such as --host 127.0.0.1)
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err fakeapp: listening on 0.0.0.0:[PORT]
        [TIME] web/0        sys SW-RUN-008 `shop/web/0@1` listens on `0.0.0.0:[PORT]`: it can be reached past the edge
        [TIME] web/0        sys   caused by: it binds an address that others can reach instead of loopback only
        [TIME] web/0        sys   | it listens on 0.0.0.0:[PORT]
        [TIME] web/0        sys   hint: let it listen on 127.0.0.1 (often an option such as --host 127.0.0.1)
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn a_hung_application() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop").app("web", app().key(STAYS)));
    sandbox.https(&shop()).get("/hang");
    sandbox.wait_for_fault("SW-RUN-010", LIMIT);
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  https://shop.localhost:[PORT]  r1-[DIGEST]
          web              0/1 ready
            0@1      backoff
              SW-RUN-010 `shop/web/0@1` was ended: it was alive but did not answer its liveness check
                caused by: 2 times in a row: no answer to GET /health within [DURATION]
                | it ran for [DURATION]
                | fakeapp: starting, pid [PID]
                | fakeapp: this line goes to stderr
                | fakeapp: listening on 127.0.0.1:[PORT]
                hint: find what blocks it, or give it longer: `live` in `health` of the service
                hint: seaworthy logs shop --service web

        edge     pid [PID], [COUNT] connections, [COUNT] requests
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        instance shop/web/0@1
          `shop/web/0@1` was ended: it was alive but did not answer its liveness check: 2 times in a row: no answer to GET /health within [DURATION]

          state        backoff
          release      r1-[DIGEST]
          restarts     0
          last end     restarted: hung ([TIME] after [DURATION])
          code         SW-RUN-010

          | it ran for [DURATION]
          | fakeapp: starting, pid [PID]
          | fakeapp: this line goes to stderr
          | fakeapp: listening on 127.0.0.1:[PORT]

        next: find what blocks it, or give it longer: `live` in `health` of the service
        next: seaworthy logs shop --service web
        $ seaworthy logs shop
        [TIME] web/0        sys started as process [PID]
        [TIME] web/0        err fakeapp: starting, pid [PID]
        [TIME] web/0        err fakeapp: this line goes to stderr
        [TIME] web/0        err fakeapp: listening on 127.0.0.1:[PORT]
        [TIME] web/0        sys hung, restarting: no answer to GET /health within [DURATION]
        [TIME] web/0        sys it was restarted because it hung after [DURATION]
        [TIME] web/0        sys starting again in [DURATION]
        [TIME] web/0        sys SW-RUN-010 `shop/web/0@1` was ended: it was alive but did not answer its liveness check
        [TIME] web/0        sys   caused by: 2 times in a row: no answer to GET /health within [DURATION]
        [TIME] web/0        sys   | it ran for [DURATION]
        [TIME] web/0        sys   hint: find what blocks it, or give it longer: `live` in `health` of the service
        [TIME] web/0        sys   hint: seaworthy explain instance shop/web/0
        ",
    );
}

#[test]
fn a_missing_secret() {
    let sandbox = sandbox();
    let app = app().key("secrets = [\"API_KEY\", \"DB_PASSWORD\"]");
    sandbox.try_up(&Site::new("shop").app("web", app)).code(1);
    says(
        &sandbox,
        "
        $ seaworthy status
        shop  never started
          SW-SEC-001 the last `up` was not done: 2 secrets have no value
            caused by: service `web` cannot start without
            | API_KEY: not in the vault
            | DB_PASSWORD: not in the vault
            hint: seaworthy secrets set API_KEY --site shop
            hint: seaworthy secrets set DB_PASSWORD --site shop
            hint: seaworthy up [PATH]/p/shop

        edge     not running
        control  pid [PID], up [DURATION]
        $ seaworthy explain instance shop/web
        site shop
          the last `up` was not done: 2 secrets have no value: service `web` cannot start without

          state        never started
          code         SW-SEC-001

          | API_KEY: not in the vault
          | DB_PASSWORD: not in the vault

        next: seaworthy secrets set API_KEY --site shop
        next: seaworthy secrets set DB_PASSWORD --site shop
        next: seaworthy up [PATH]/p/shop
        $ seaworthy logs shop
        error: the last `up` was not done: 2 secrets have no value (SW-SEC-001)
          caused by: service `web` cannot start without
          | API_KEY: not in the vault
          | DB_PASSWORD: not in the vault
        hint: seaworthy secrets set API_KEY --site shop
        hint: seaworthy secrets set DB_PASSWORD --site shop
        hint: seaworthy up [PATH]/p/shop
        ",
    );
}

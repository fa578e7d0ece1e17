//! Servers that we run, as far as backups go: what they are set to by themselves.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seaworthy_backup::Source;
use seaworthy_backup::managed::{ADMINISTRATOR, ADMINISTRATOR_NAME, APPLICATION, ServerKind};
use seaworthy_testkit::eventually;
use seaworthy_testkit::peers::{POSTGRES_18, Place, free_port, unprivileged};

use crate::platform::{Platform, WORKER};

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_postgres_that_we_run_keeps_account_so_that_a_base_backup_copies_only_what_changed() {
    const LOG: &str = "database.main.log";
    let (place, port) = (Place::new(), free_port());
    // Where the user that it runs as may start it.
    let program = place.path().join("server");
    std::fs::copy(WORKER, &program).unwrap();
    let url = |user: &str| ServerKind::Postgres.url(user, "s3cret", port, "shop");
    let (app, boss) = (url("app"), url(ADMINISTRATOR_NAME));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((uid, gid)) = unprivileged() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    }
    let path = format!("{POSTGRES_18}:{}", std::env::var("PATH").unwrap());
    command.arg(&program).args(["database-server", "postgres"]).arg(place.path().join("main"));
    command.envs([("PATH", &path), (APPLICATION, &app), (ADMINISTRATOR, &boss)]);
    let _server = Server(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let psql = |sql: &str| {
        let output = Command::new("psql").args(["-XqAt", &boss, "-c", sql]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    eventually("it answers", Duration::from_secs(90), || psql("SELECT 1").is_some());
    assert_eq!(psql("SHOW summarize_wal").unwrap(), "on");
    psql("CREATE TABLE ballast AS SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n")
        .unwrap();
    psql("VACUUM").unwrap();

    let mut platform = Platform::new();
    (platform.log, platform.programs) = (Some(LOG.to_owned()), Some(POSTGRES_18.into()));
    let source = Source::PostgresLog { url: boss.clone() };
    let whole = platform.take(LOG, &source).set;
    psql("UPDATE ballast SET n = n + 1 WHERE n = 1").unwrap();
    let changed = platform.take(LOG, &source).set;
    assert_eq!((&whole.needs[..], &changed.needs[..]), (&[][..], &[whole.id.clone()][..]));
    assert_eq!(changed.notes, whole.notes);
    assert!(changed.plain_bytes() < whole.plain_bytes() / 4, "{changed:?}");
}

//! A scratch MariaDB (or MySQL) server: a data folder of its own, a Unix socket only, gone when it is dropped.

use std::time::Duration;

use seaworthy_base::{Code, Fault};

use super::connect::{Client, Connection};
use super::program::{DAEMONS, Kind, find, of_kind, version_of};
use crate::set::Set;
use crate::shut_in::ShutIn;
use crate::tool::{Running, Tool};
use crate::work::{Temporary, Work};

/// A server on a busy machine may take this long to come up.
const START: Duration = Duration::from_secs(90);

/// What only MySQL's server knows: it exchanges no files with its clients (for which its package has a folder, which
/// must be there), and opens no second door.
const OF_MYSQL: [&str; 2] = ["--secure-file-priv=NULL", "--mysqlx=OFF"];

/// A running scratch server.
#[derive(Debug)]
pub(super) struct Scratch {
    running: Option<Running>,
    client: Client,
    _dir: Temporary,
    _sockets: Temporary,
}

impl Scratch {
    pub(super) fn start(work: &Work, set: &Set) -> Result<Self, Fault> {
        let cannot = |fault: Fault| Fault {
            code: Code::BackupUnverified,
            what: format!("backup {} cannot be tried on this machine", set.id),
            ..fault
        };
        let daemon = of_kind(Kind::of(&set.server), DAEMONS)
            .map_err(|fault| cannot(fault).next("apt install mariadb-server"))?;
        let (dir, sockets) = (work.scratch()?, work.sockets()?);
        let run_as = work.job.run_as.as_ref();
        same_version(&daemon.path, set, &dir)?;
        let needed = set.databases.iter().map(|one| one.bytes).sum::<u64>().max(set.plain_bytes());
        work.need_space(dir.path(), needed + needed / 2 + (200 << 20), "a drill")?;
        work.step("starting a scratch server");
        let data = format!("--datadir={}", dir.path().join("data").display());
        let tmp = format!("--tmpdir={}", dir.path().display());
        let shut_in = ShutIn::within(&[dir.path(), sockets.path()]);
        let tool = |program: &str| {
            let tool = Tool::new(program, dir.path(), run_as).shut_in(shut_in.clone());
            tool.envs([("TMPDIR".to_owned(), dir.path().display().to_string())])
        };
        if daemon.kind == Kind::MariaDb {
            let install = find(["mariadb-install-db", "mysql_install_db"]).map_err(cannot)?;
            let words = [
                "--no-defaults",
                &data,
                &tmp,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ];
            tool(&install).args(words).output(Code::BackupUnverified)?;
        } else {
            tool(&daemon.path)
                .args(["--no-defaults", "--initialize-insecure", &data, &tmp])
                .args(OF_MYSQL)
                .output(Code::BackupUnverified)?;
        }
        let socket = sockets.path().join("s");
        let (socket_word, pid) = (
            format!("--socket={}", socket.display()),
            format!("--pid-file={}", dir.path().join("pid").display()),
        );
        let words = [
            "--no-defaults",
            &data,
            &tmp,
            &socket_word,
            &pid,
            "--skip-networking",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--sync-binlog=0",
            "--max-allowed-packet=1G",
            "--event-scheduler=OFF",
        ];
        let more = if daemon.kind == Kind::Mysql { &OF_MYSQL[..] } else { &[] };
        let running = tool(&daemon.path).args(words).args(more).start(false)?;
        let client = Client::new(&Connection::socket(&socket), &dir, work)?;
        let running = running
            .ready(START, Code::BackupUnverified, || {
                socket.exists() && client.one("SELECT 1").is_ok()
            })
            .map_err(|fault| Fault {
                what: format!("backup {} cannot be tried: no scratch server came up", set.id),
                ..fault
            })?;
        Ok(Self { running: Some(running), client, _dir: dir, _sockets: sockets })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // There is nothing to keep.
            running.stop(rustix::process::Signal::KILL.as_raw(), Duration::from_secs(5));
        }
    }
}

/// The server here must be of the same kind and major version: `10.11` and `10.11`, `8.0` and `8.0`.
fn same_version(daemon: &str, set: &Set, dir: &Temporary) -> Result<(), Fault> {
    let said = Tool::new(daemon, dir.path(), None)
        .args(["--no-defaults", "--version"])
        .output(Code::BackupUnverified)?;
    let of = |text: &str| (version_of(text), Kind::of(text));
    if of(&set.server) == of(&said) {
        return Ok(());
    }
    Err(Fault::new(
        Code::BackupUnverified,
        format!("backup {} cannot be tried on this machine", set.id),
    )
    .because(format!("it is of version {}, the server here of {}", set.server, said.trim()))
    .next("install a server of the same version"))
}

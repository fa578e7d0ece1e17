//! A MariaDB server of ours.
//!
//! Logins and the database are made by the server itself at each start, before it listens, from a file that is
//! in memory only.

use std::os::fd::IntoRawFd;
use std::path::Path;
use std::process::Command;

use seaworthy_base::{Code, Fault};

use super::memory::{self, share};
use super::{Home, Logins, command, failed, in_memory, login, other_version};
use crate::engine::mysql::program::find;
use crate::tool::Tool;

/// The file that says of which version the data is.
const VERSION: &str = "version";

/// The server's program and its version (`10.11`), which must be that of the data.
pub(super) fn program(folder: &Path) -> Result<(String, String), Fault> {
    let daemon = find(["mariadbd", "mariadbd"]).map_err(|_| {
        Fault::new(Code::ServerUnfit, "MariaDB is not installed on this machine")
            .because("`managed = true` runs the distribution's own server")
            .next("apt install mariadb-server")
    })?;
    let said = Tool::new(&daemon, Path::new("/"), None)
        .args(["--no-defaults", "--version"])
        .output(Code::BackupTool)?;
    let version = said.split("Ver ").nth(1).unwrap_or_default();
    let version = version.split('.').take(2).collect::<Vec<_>>().join(".");
    match std::fs::read_to_string(folder.join(VERSION)) {
        Ok(data) if data != version => {
            Err(other_version("MariaDB", &data, &version, &format!("mariadb-server={data}*")))
        }
        _ => Ok((daemon, version)),
    }
}

/// Makes everything ready; the server as it is to be started.
pub(super) fn ready(home: &Home, logins: &Logins) -> Result<Command, Fault> {
    let (daemon, version) = program(&home.folder)?;
    if !home.path("data").exists() {
        // Noted first: data without a version would be of any.
        home.write(VERSION, &version)?;
        home.make_data(|fresh| make(home, fresh))?;
    }
    let statements = in_memory(&statements(logins)?)
        .map_err(|error| failed("could not hand over the logins", &error))?;
    // Stays open across exec.
    let init = format!("--init-file=/dev/fd/{}", statements.into_raw_fd());
    let mut words = settings(logins.port, memory::of_machine());
    words.insert(1, format!("--datadir={}", home.path("data").display()));
    words.extend([init, format!("--pid-file={}", home.path("pid").display())]);
    Ok(command(daemon, &words))
}

fn make(home: &Home, fresh: &Path) -> Result<(), Fault> {
    let install = find(["mariadb-install-db", "mysql_install_db"])?;
    let data = format!("--datadir={}", fresh.display());
    let words = [
        "--no-defaults",
        &data,
        // Without it `root` may come in from anywhere on this machine, without a password.
        "--auth-root-authentication-method=socket",
        "--auth-root-socket-user=root",
        "--skip-test-db",
        "--skip-name-resolve",
    ];
    Tool::new(install, &home.folder, None).args(words).output(Code::ServerFailed).map(drop)
}

/// One statement a line, as the server reads them.
fn statements(logins: &Logins) -> Result<String, Fault> {
    let ((user, password), (boss, secret)) =
        (login(&logins.application)?, login(&logins.administrator)?);
    let database = logins.application.database.as_deref().unwrap_or(user).replace('`', "");
    // In a GRANT `_` stands for any character.
    let pattern = database.replace('_', "\\_");
    let lines = [
        format!("CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4;"),
        format!("CREATE USER IF NOT EXISTS '{user}'@'127.0.0.1' IDENTIFIED BY '{password}';"),
        format!("ALTER USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}';"),
        format!("GRANT ALL PRIVILEGES ON `{pattern}`.* TO '{user}'@'127.0.0.1';"),
        format!("CREATE USER IF NOT EXISTS '{boss}'@'127.0.0.1' IDENTIFIED BY '{secret}';"),
        format!("ALTER USER '{boss}'@'127.0.0.1' IDENTIFIED BY '{secret}';"),
        format!("GRANT ALL PRIVILEGES ON *.* TO '{boss}'@'127.0.0.1' WITH GRANT OPTION;"),
    ];
    Ok(format!("{}\n", lines.join("\n")))
}

fn settings(port: u16, memory: u64) -> Vec<String> {
    let words = [
        "--no-defaults".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--port={port}"),
        // Inside the data folder: a path from the root may be too long for a socket.
        "--socket=server.sock".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--character-set-server=utf8mb4".to_owned(),
        "--local-infile=0".to_owned(),
        "--max-connections=100".to_owned(),
        "--max-allowed-packet=64M".to_owned(),
        // More would note every health check that goes without logging in.
        "--log-warnings=1".to_owned(),
        format!("--innodb-buffer-pool-size={}M", share(memory, 8, 32, 8192)),
        format!("--innodb-log-file-size={}M", share(memory, 32, 16, 1024)),
        "--innodb-flush-log-at-trx-commit=1".to_owned(),
    ];
    words.into()
}

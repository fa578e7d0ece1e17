//! A Redis server of ours. Its settings go to its standard input: they hold the password.
//!
//! Every write is in the append-only file within a second. Memory is bounded, and a full one refuses writes:
//! what is there is the application's data, not only a cache.

use std::path::Path;
use std::process::{Command, Stdio};

use seaworthy_base::{Code, Fault};

use super::memory::{self, MIB, share};
use super::{Home, Logins, command, failed, in_memory, login, other_version};
use crate::tool::Tool;

/// The file that says which version wrote the data last.
const VERSION: &str = "version";

/// Who may ask whether it is ready, and nothing else.
const PROBE: &str = "probe";

/// The server's program and its version (`7.0`), which must not be older than the data's.
pub(super) fn program(folder: &Path) -> Result<(&'static str, String), Fault> {
    let said = |program: &str| {
        Tool::new(program, Path::new("/"), None).args(["--version"]).output(Code::BackupTool).ok()
    };
    let found = ["redis-server", "valkey-server"]
        .into_iter()
        .find_map(|program| Some((program, said(program)?)));
    let (program, said) = found.ok_or_else(|| {
        Fault::new(Code::ServerUnfit, "Redis is not installed on this machine")
            .because("`managed = true` runs the distribution's own server")
            .next("apt install redis-server")
    })?;
    let number =
        |text: &str| -> Vec<u32> { text.split('.').filter_map(|part| part.parse().ok()).collect() };
    let version = said.split("v=").nth(1).unwrap_or_default();
    let version = version.split('.').take(2).collect::<Vec<_>>().join(".");
    match std::fs::read_to_string(folder.join(VERSION)) {
        Ok(data) if number(&data) > number(&version) => {
            Err(other_version("Redis", &data, &version, &format!("redis-server={data}*")))
        }
        _ => Ok((program, version)),
    }
}

/// Asks for a sign of life; while it loads its data, and before it knows who asks, it answers otherwise.
pub(super) fn greeting() -> (Vec<u8>, Vec<u8>) {
    (format!("AUTH {PROBE} {PROBE}\r\nPING\r\n").into_bytes(), b"+OK\r\n+PONG".to_vec())
}

/// Makes everything ready; the server as it is to be started.
pub(super) fn ready(home: &Home, logins: &Logins) -> Result<Command, Fault> {
    let (program, version) = program(&home.folder)?;
    home.write(VERSION, &version)?;
    if !home.path("data").exists() {
        home.make_data(|fresh| {
            std::fs::create_dir(fresh).map_err(|error| failed("could not make a folder", &error))
        })?;
    }
    let (_, password) = login(&logins.application)?;
    let settings = settings(home, logins.port, password, memory::of_machine());
    let settings =
        in_memory(&settings).map_err(|error| failed("could not hand over the settings", &error))?;
    let mut command = command(program, &["-".to_owned()]);
    command.stdin(Stdio::from(settings));
    Ok(command)
}

fn settings(home: &Home, port: u16, password: &str, memory: u64) -> String {
    let data = home.path("data").display().to_string();
    [
        "bind 127.0.0.1".to_owned(),
        format!("port {port}"),
        "daemonize no".to_owned(),
        format!("dir \"{}\"", data.replace('\\', "\\\\").replace('"', "\\\"")),
        "appendonly yes".to_owned(),
        "appendfsync everysec".to_owned(),
        format!("maxmemory {}", share(memory, 4, 64, 1 << 20) * MIB),
        "maxmemory-policy noeviction".to_owned(),
        format!("user default on >{password} ~* &* +@all"),
        format!("user {PROBE} on >{PROBE} resetkeys -@all +ping"),
        String::new(),
    ]
    .join("\n")
}

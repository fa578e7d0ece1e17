//! The virtual machine: what goes in, qemu, and what comes out.
//!
//! It boots the kernel without a boot loader, on a copy-on-write view of the disk (`image`), with the programs on a
//! second one, and reports on a serial line, which is ours; the kernel's own line goes to a file. No hardware
//! virtualisation is asked for: emulation works everywhere and takes minutes. Invariants: no network;
//! nothing of this host is written but below the target folder; the machine ends with us and at its deadline.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::{Image, image};
use super::{built, guest};
use crate::run;
use crate::setup;

/// All of it, reboot included; it takes an eighth of that where nothing else wants the processor.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Memory in MiB.
const MEMORY: &str = "1536";

/// Makes the machine, runs every test of a real host in it, and reports.
pub(crate) fn in_a_machine() -> Result<()> {
    setup::setup(setup::FOR_HOST_TEST)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let folder = std::path::absolute(target)?.join("host-test");
    let image = image(&folder)?;
    let payload = payload(&folder)?;
    let console = folder.join("console.log");
    let begun = Instant::now();
    let mut machine = start(&image, &payload, &console)?;
    let passed = follow(&mut machine);
    machine.kill().ok();
    machine.wait()?;
    if passed? {
        println!("passed in {} s", begun.elapsed().as_secs());
        return Ok(());
    }
    bail!("not everything held; the machine's console is in {}", console.display())
}

/// The second disk: the programs, the example, and what starts them.
fn payload(folder: &Path) -> Result<PathBuf> {
    let dir = folder.join("payload");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let shim = ["test", "-p", "seaworthy-runtime", "--test", "shim"];
    let under_test = built("bin", "shim-under-test", &shim)?;
    let programs = [
        ("shim", built("test", "shim", &shim)?),
        ("shim-under-test", under_test.clone()),
        ("seaworthy", built("bin", "seaworthy", &["build", "-p", "seaworthy"])?),
        ("xtask", std::env::current_exe()?),
    ];
    for (name, program) in programs {
        // What only debuggers read would be most of the disk.
        run(Command::new("strip").arg("-o").arg(dir.join(name)).arg(program))?;
    }
    run(Command::new("cp").args(["-r", "examples/guestbook"]).arg(&dir))?;
    // The tests know their program by the place at which it was built.
    let script = format!(
        "#!/bin/sh\nexport TERM=dumb\nexec /opt/xtask {} '{}'\n",
        guest::ROLE,
        under_test.display()
    );
    fs::write(dir.join("run"), script)?;
    fs::set_permissions(dir.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let disk = folder.join("payload.img");
    fs::remove_file(&disk).ok();
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&dir).arg(&disk).arg("512M"))?;
    Ok(disk)
}

fn start(image: &Image, payload: &Path, console: &Path) -> Result<Child> {
    // It ends with us however we end; and whoever works on this machine comes first.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nice", "-n", "15", "qemu-system-x86_64"]);
    command.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    command.args(["-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0"]);
    let drive = |path: &Path, more: &str| format!("file={},if=virtio,{more}", path.display());
    command.arg("-drive").arg(drive(&image.disk, "format=raw,snapshot=on"));
    command.arg("-drive").arg(drive(payload, "format=raw,readonly=on"));
    command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("could not start qemu")
}

/// Shows what the machine says until it ends; whether all passed.
fn follow(machine: &mut Child) -> Result<bool> {
    let output = machine.stdout.take().context("qemu has no output")?;
    let (lines, said) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let until = Instant::now() + LIMIT;
    let mut passed = false;
    loop {
        match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                passed |= line == guest::PASSED;
                println!("{line}");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(passed),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("it took longer than {LIMIT:?}"),
        }
    }
}

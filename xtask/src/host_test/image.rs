//! The disk of the virtual machine: this host's own release of Debian, made once by debootstrap.
//!
//! Its own release, because programs that were built here must find the libraries that they were built for. Invariants:
//! nothing outside of the folder is changed; what is half made is never taken for done; another recipe makes
//! another disk. Needs root, as debootstrap does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

/// Changed whenever what is made here is another thing.
const RECIPE: &str = "1";
/// What the machine has beyond what every Debian has. python3 and curl are what the tests run and ask with.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,python3,curl,initramfs-tools,zstd";
/// The kernel, made for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Room on the disk.
const SIZE: &str = "1500M";
/// What would only take time.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-timesyncd.service",
];

/// Runs what the second disk holds, and speaks on the second serial line.
const UNIT: &str = "\
[Unit]
Description=Tests of a real host
After=multi-user.target

[Service]
Type=oneshot
ExecStartPre=/bin/mount -o ro /dev/vdb /opt
ExecStart=/opt/run
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1

[Install]
WantedBy=multi-user.target
";

/// What qemu starts.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// The image in that folder, made if it is not there.
pub(super) fn image(folder: &Path) -> Result<Image> {
    let image = Image {
        disk: folder.join("disk.img"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd"),
    };
    let release = release()?;
    let recipe = format!("{RECIPE} {release}");
    let stamp = folder.join("recipe");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(image);
    }
    if !super::is_root() {
        bail!("debootstrap, which makes the machine's disk, is for root: run it with sudo");
    }
    fs::create_dir_all(folder)?;
    fs::remove_file(&stamp).ok();
    let root = folder.join("root");
    empty(&root)?;
    eprintln!("making a disk with Debian {release}: a few minutes, once");
    make(&root, &release, &folder.join("image.log"))?;
    for (prefix, to) in [("vmlinuz-", &image.kernel), ("initrd.img-", &image.initrd)] {
        fs::copy(in_boot(&root, prefix)?, to)?;
    }
    fs::remove_file(&image.disk).ok();
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&root)
        .arg(&image.disk)
        .arg(SIZE))?;
    empty(&root)?;
    fs::write(stamp, recipe)?;
    Ok(image)
}

/// The code name of this host's Debian.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("which Linux this is")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    if field("ID").as_deref() != Some("debian") || std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machine is made of this host's own release: Debian on x86-64 only");
    }
    field("VERSION_CODENAME").context("/etc/os-release names no VERSION_CODENAME")
}

fn empty(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Fills the folder: a Debian that boots and runs the tests.
fn make(root: &Path, release: &str, log: &Path) -> Result<()> {
    let quietly = |command: &mut Command| -> Result<()> {
        let file = fs::File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        run(command).with_context(|| format!("its output is in {}", log.display()))
    };
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), release]);
    quietly(command.arg(root))?;
    // Only what a disk of qemu's needs: a small one is unpacked sooner.
    let initramfs = root.join("etc/initramfs-tools");
    fs::create_dir_all(initramfs.join("conf.d"))?;
    fs::write(initramfs.join("conf.d/host-test"), "MODULES=list\nCOMPRESS=zstd\n")?;
    fs::write(initramfs.join("modules"), "virtio_pci\nvirtio_blk\next4\n")?;
    let mut command = Command::new("chroot");
    command.arg(root).args(["apt-get", "install", "-y", "--no-install-recommends", KERNEL]);
    quietly(command.env("DEBIAN_FRONTEND", "noninteractive"))?;
    for dir in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        empty(&root.join(dir))?;
    }
    fs::write(root.join("etc/hostname"), "host-test\n")?;
    // Empty: every boot of a new machine makes its own.
    fs::write(root.join("etc/machine-id"), "")?;
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        std::os::unix::fs::symlink("/dev/null", units.join(unit))?;
    }
    fs::write(units.join("host-test.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    let wanted = units.join("multi-user.target.wants/host-test.service");
    Ok(std::os::unix::fs::symlink("../host-test.service", wanted)?)
}

/// The file in `/boot` whose name begins so.
fn in_boot(root: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(root.join("boot"))?.flatten().map(|entry| entry.path());
    let mut found = entries.filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    });
    found.next().with_context(|| format!("there is no {prefix} in the machine's /boot"))
}

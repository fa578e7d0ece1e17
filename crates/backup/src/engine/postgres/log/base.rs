//! A base backup: a copy of the whole server or, from PostgreSQL 17 on, of what changed since the copy before.
//!
//! `pg_basebackup` writes a tar; on the way its label (where the log begins that it needs) and its manifest (what the
//! next copy is compared with) are taken from it. Invariants: what changed is copied only when every store has all
//! that came before; where that fails for whatever reason, the whole server is copied. Not here: putting them together
//! again (`replay`).

use std::io::{self, Write};

use seaworthy_base::{Code, Fault};

use super::super::connect::Tools;
use super::super::session::Session;
use super::{BASE, MANIFEST, segment};
use crate::engine::{Into, kept};
use crate::seal::{Sealing, pump, write_fault};
use crate::set::{Part, Set, SetId};
use crate::work::{Temporary, Work};

/// The first version that knows what changed.
const SINCE: u32 = 17;
/// After so many copies of what changed comes a whole one: a restore must put all of them together.
const CHAIN: usize = 6;
/// The label is the first file of a copy, and stands in so many bytes.
const LABEL: usize = 4096;
/// Of a tar: everything comes in blocks.
const BLOCK: usize = 512;

/// What was copied.
pub(super) struct Copied {
    pub parts: Vec<Part>,
    /// The first file of the log that it needs.
    pub first: String,
    /// The copies that it adds to.
    pub needs: Vec<SetId>,
}

/// Copies what changed where that can be, else everything; with a note when it could not be.
pub(super) fn copy(
    work: &Work,
    tools: &Tools,
    session: &mut Session,
    scratch: &Temporary,
    into: &Into<'_>,
    notes: &mut Vec<String>,
) -> Result<Copied, Fault> {
    let (_, major) = session.version()?;
    let before = into.base.filter(|base| major >= SINCE && base.needs.len() < CHAIN);
    if let Some(before) = before
        && session.try_one("SELECT to_json(current_setting('summarize_wal', true) = 'on')")? == true
        && let Some(manifest) = manifest_of(work, scratch, before)
    {
        work.step("copying what changed");
        match one(tools, major, into, Some(&manifest)) {
            Ok(copied) => {
                let needs = before.needs.iter().chain([&before.id]).cloned().collect();
                return Ok(Copied { needs, ..copied });
            }
            Err(fault) if fault.code == Code::DiskFull => return Err(fault),
            Err(fault) => {
                let why = fault.evidence.iter().find(|line| line.contains("error:"));
                notes.push(format!(
                    "it is a copy of the whole server: {}",
                    why.unwrap_or(&fault.what)
                ));
            }
        }
    }
    work.step("copying the whole server");
    one(tools, major, into, None)
}

fn one(
    tools: &Tools,
    major: u32,
    into: &Into<'_>,
    since: Option<&std::path::Path>,
) -> Result<Copied, Fault> {
    let words = ["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast", "--verbose", "--no-password"];
    let mut tool = tools.tool("pg_basebackup", major, "")?.args(words);
    if let Some(manifest) = since {
        tool = tool.args([format!("--incremental={}", manifest.display())]).may_read(manifest);
    }
    let failed = |error: io::Error| write_fault("could not write the base backup", &error);
    let create = |file: &str| {
        let path = into.staging.join(file);
        std::fs::remove_file(&path).ok();
        Sealing::create(&path, into.recipients).map_err(failed)
    };
    let (mut base, mut tar) = (create(BASE)?, Tar::new(create(MANIFEST)?));
    let mut running = tool.start(false)?;
    let (mut output, mut noted) = (running.output()?, Ok(()));
    let pumped = pump(&mut output, &mut base, |bytes| {
        if noted.is_ok() {
            noted = tar.feed(bytes);
        }
    });
    // Closed first: a tool whose output nobody takes any more must end, not wait.
    drop(output);
    let ended = running.finish(Code::BackupSource);
    pumped.and(noted).map_err(failed)?;
    ended?;
    let first = begins(&tar.label).ok_or_else(|| {
        Fault::new(Code::BackupFailed, "the copy of the server does not say where its log begins")
            .because("it does not begin with the label that every base backup has")
    })?;
    let base = base.finish(BASE, "server", "tar").map_err(failed)?;
    let manifest = tar.manifest.finish(MANIFEST, "manifest", "json").map_err(failed)?;
    Ok(Copied { parts: vec![base, manifest], first, needs: Vec::new() })
}

/// The manifest of the copy before, where a tool can read it.
fn manifest_of(work: &Work, scratch: &Temporary, before: &Set) -> Option<std::path::PathBuf> {
    let path = scratch.path().join("backup_manifest");
    let mut file = std::fs::File::create(&path).ok()?;
    pump(&mut kept::open(work, before)?, &mut file, |_| {}).ok().filter(|bytes| *bytes > 0)?;
    if let Some(user) = &work.job.run_as {
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).ok()?;
    }
    Some(path)
}

/// The first file of the log that a copy needs, of the label with which it begins.
fn begins(copy: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(copy);
    let file = text.split("START WAL LOCATION: ").nth(1)?.split("(file ").nth(1)?;
    file.get(..24).filter(|name| segment::is_whole(name)).map(str::to_owned)
}

/// A tar that goes by: its first bytes are kept, its manifest is written elsewhere.
struct Tar<W> {
    label: Vec<u8>,
    manifest: W,
    header: Vec<u8>,
    /// Of the member that goes by: bytes of content that are to come, then of what fills its last block.
    content: u64,
    filling: u64,
    is_manifest: bool,
}

impl<W: Write> Tar<W> {
    fn new(manifest: W) -> Self {
        let header = Vec::with_capacity(BLOCK);
        Self { label: Vec::new(), manifest, header, content: 0, filling: 0, is_manifest: false }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let left = LABEL.saturating_sub(self.label.len());
        self.label.extend(bytes.iter().take(left));
        while !bytes.is_empty() {
            let most = match (self.content, self.filling) {
                (0, 0) => (BLOCK - self.header.len()) as u64,
                (0, filling) => filling,
                (content, _) => content,
            };
            let length = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
            let (here, rest) = bytes.split_at(length);
            bytes = rest;
            if self.content > 0 {
                self.content -= length as u64;
                if self.is_manifest {
                    self.manifest.write_all(here)?;
                }
            } else if self.filling > 0 {
                self.filling -= length as u64;
            } else {
                self.header.extend_from_slice(here);
                if self.header.len() == BLOCK {
                    self.member();
                }
            }
        }
        Ok(())
    }

    /// A header is complete: what follows it.
    fn member(&mut self) {
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.header);
        self.header.clear();
        let header = tar::Header::from_byte_slice(&block);
        // Nothing but zeros is the end.
        self.content =
            if block.iter().all(|byte| *byte == 0) { 0 } else { header.entry_size().unwrap_or(0) };
        self.filling = self.content.next_multiple_of(BLOCK as u64) - self.content;
        self.is_manifest = &*header.path_bytes() == b"backup_manifest";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_log_of_a_copy_begins_stands_in_its_label() {
        let label = b"backup_label\0\0START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT";
        assert_eq!(begins(label).as_deref(), Some("000000010000000000000002"));
        assert_eq!(begins(b"START WAL LOCATION: 0/2000028 (file ../../x)"), None);
    }

    #[test]
    fn the_manifest_is_taken_from_a_tar_wherever_reads_end() {
        let mut tar = tar::Builder::new(Vec::new());
        let content = "m".repeat(1500);
        for (name, content) in [
            ("backup_label", "label"),
            ("base/1/empty", ""),
            ("backup_manifest", &content),
            ("x", "y"),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        for size in [1, 100, 512, 513, 100_000] {
            let mut seen = Tar::new(Vec::new());
            bytes.chunks(size).for_each(|chunk| seen.feed(chunk).unwrap());
            assert_eq!(seen.manifest, content.as_bytes(), "in pieces of {size}");
            assert!(seen.label.starts_with(b"backup_label"));
        }
    }
}

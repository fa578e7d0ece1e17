//! What went wrong, in the one shape that crosses every border: code, cause, evidence, next command.
//!
//! A crate's own error enums say what failed inside it; at the border towards people they become a
//! [`Fault`]. Invariant: a code, once given out, keeps its meaning (scripts match on it); the list
//! below is the registry from which `docs/reference/codes.md` is generated.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident = $text:literal, $meaning:literal;)*) => {
        /// A stable name for a kind of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code there is, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it is printed, such as `SW-RUN-003`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    ManifestInvalid = "SW-MAN-001", "The manifest has problems; all of them are listed.";
    ManifestMissing = "SW-MAN-002", "There is no `seaworthy.toml` where it was looked for.";
    ManifestUnreadable = "SW-MAN-003", "The manifest could not be read: too large, not text, or no permission.";
    SecretMissing = "SW-SEC-001", "A secret that a service needs has no value, or still a placeholder.";
    SecretSource = "SW-SEC-002", "A place that secrets come from could not be read.";
    SecretExposed = "SW-SEC-003", "A file with secrets can be read by others or is not ignored by git.";
    ProgramMissing = "SW-RUN-001", "The program to run does not exist or is not executable.";
    FileMissing = "SW-RUN-002", "A file or folder that the program needs to start does not exist.";
    Exited = "SW-RUN-003", "The program ended by itself.";
    Killed = "SW-RUN-004", "The program was ended by a signal.";
    OutOfMemory = "SW-RUN-005", "The program was ended because it used more memory than it may.";
    NeverListened = "SW-RUN-006", "The program runs but does not listen anywhere.";
    WrongPort = "SW-RUN-007", "The program listens, but not on the port it was given.";
    OtherAddress = "SW-RUN-008", "The program can be reached past the edge: it listens on more than loopback.";
    CrashLoop = "SW-RUN-009", "The program ends again and again shortly after its start.";
    Hung = "SW-RUN-010", "The program is alive but does not answer its liveness check.";
    NotReady = "SW-RUN-011", "The program answers, but its readiness check fails.";
    SpawnFailed = "SW-RUN-012", "The program could not be started.";
    BuildFailed = "SW-REL-001", "A build command failed; nothing was changed.";
    MigrateFailed = "SW-REL-002", "A migration failed; the new code was not started.";
    StartFailed = "SW-REL-003", "A new instance did not become ready in time; the old ones stay.";
    GateFailed = "SW-REL-004", "The new release started, but a request through the real listener was not answered well; nothing was changed.";
    TakenBack = "SW-REL-005", "The new release was worse than the old one, which serves again.";
    Aborted = "SW-REL-006", "Somebody stopped the deployment; the old release serves.";
    DeployBusy = "SW-REL-007", "Another deployment of the same site goes on.";
    NoSuchRelease = "SW-REL-008", "There is no such release to go to.";
    SchemaAhead = "SW-REL-009", "The database was migrated since that release; going back needs a word on the schema.";
    SourceUnusable = "SW-REL-010", "The files to deploy could not be had: a git reference, an archive or a folder is not usable.";
    CheckFailed = "SW-REL-011", "One of the project's own checks failed; nothing was changed.";
    Interrupted = "SW-REL-012", "The process that worked on the deployment ended in the middle of it; the next one resolved it.";
    DeployTimeout = "SW-REL-013", "The new instances did not become ready within the time of the deployment.";
    BackupFailed = "SW-BAK-001", "A backup could not be made; nothing was published and earlier ones are untouched.";
    BackupSource = "SW-BAK-002", "What is to be backed up could not be read: unreachable, refused, or no permission.";
    BackupStore = "SW-BAK-003", "A store of backups could not be reached, read or written.";
    BackupDamaged = "SW-BAK-004", "A stored backup is damaged or incomplete.";
    BackupKey = "SW-BAK-005", "A backup cannot be opened with the keys at hand, or a key is no key.";
    BackupTool = "SW-BAK-006", "A program that the backup needs is missing or does not fit the server.";
    DrillFailed = "SW-BAK-007", "A drill restored a backup, and what came back is not what was saved.";
    BackupUnverified = "SW-BAK-008", "A backup could not be verified; it counts as unverified.";
    RestoreFailed = "SW-BAK-009", "A restore did not come to its end; what was there before is untouched.";
    NoSuchBackup = "SW-BAK-010", "There is no backup of that name, id or time.";
    BackupBusy = "SW-BAK-011", "Another run works on the same backups.";
    RestoreUnconfirmed = "SW-BAK-012", "A restore onto live data was not confirmed.";
    BackupOverdue = "SW-BAK-013", "The newest good backup is older than it may be.";
    NameElsewhere = "SW-TLS-001", "A name does not lead to this server, so that no authority can see the proof that it is ours.";
    AuthorityUnreachable = "SW-TLS-002", "A certificate authority could not be reached, or what answered is none.";
    AuthorityRefused = "SW-TLS-003", "A certificate authority refused: its limits, its rules, or the account.";
    ChallengeFailed = "SW-TLS-004", "A certificate authority could not see the proof that a name is ours.";
    DnsUpdateFailed = "SW-TLS-005", "A TXT record could not be written, or was not seen in time.";
    CertificateExpired = "SW-TLS-006", "A certificate that is served has expired, or will soon and was not renewed.";
    CertificateUnfit = "SW-TLS-007", "A certificate cannot be used: other names, another key, expired, or no certificate at all.";
    NoCertificate = "SW-TLS-008", "There is nothing to renew: no site of that name gets its certificate from an authority.";
    ServerUnfit = "SW-DAT-001", "The programs of a managed database are not installed, or are of another version than its data.";
    ServerFailed = "SW-DAT-002", "A managed database's server did not come up.";
    PortTaken = "SW-EDG-001", "A port that the edge is to listen on is held by another program.";
    PortDenied = "SW-EDG-002", "This user may not listen on that port.";
    EdgeDown = "SW-EDG-003", "The edge process does not answer.";
    NoSuchRequest = "SW-EDG-004", "No request of that id stands in the logs.";
    StoreGone = "SW-EDG-005", "The Redis that edges count limits in does not answer: each counts for itself.";
    ControlNotRunning = "SW-CTL-001", "No control process answers.";
    ControlRunning = "SW-CTL-002", "Another control process owns this state folder.";
    StateUnwritable = "SW-CTL-003", "The state folder cannot be written.";
    DiskFull = "SW-CTL-004", "The disk is full.";
    NoSuchSite = "SW-CTL-005", "There is no site of that name.";
    NoSuchInstance = "SW-CTL-006", "There is no service or instance of that name.";
    HostConflict = "SW-CTL-007", "Another site already serves that host name.";
    WrongControl = "SW-CTL-008", "The control process that answered belongs to another build or state folder.";
    JobFailed = "SW-JOB-001", "A job failed, took too long or runs already.";
    NoSuchJob = "SW-JOB-002", "There is no job of that name.";
    UpgradeFailed = "SW-CTL-012", "Another build of Seaworthy could not take over; the one before runs on.";
    RemoteFailed = "SW-CLI-001", "The verb could not be run on the other server.";
    AuditBroken = "SW-CTL-011", "The audit log's chain of hashes is broken: it was edited.";
    ControlEnding = "SW-CTL-009", "The control process that answered is about to end.";
    ControlCutOff = "SW-CTL-010", "The control process ended in the middle of its answer.";
    Internal = "SW-INT-001", "A defect in Seaworthy, or an operating system that failed.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failure as a person or a script meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its stable code.
    pub code: Code,
    /// What was attempted and failed: lower case, no full stop, literals in backticks.
    pub what: String,
    /// Why, outermost cause first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What was seen: answers, exit codes, the last lines of a log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to type or change next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl Fault {
    /// A fault that says what failed; add causes, evidence and the next step with the `with_*` calls.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), causes: Vec::new(), evidence: Vec::new(), next: Vec::new() }
    }

    /// Adds a cause below the ones already there.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and the whole chain of its sources as causes.
    pub fn because_of(mut self, error: &dyn std::error::Error) -> Self {
        let mut current = Some(error);
        while let Some(error) = current {
            self.causes.push(error.to_string());
            current = error.source();
        }
        self
    }

    /// Adds a line of what was seen.
    pub fn seen(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    /// Adds the next thing to type or change.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.code)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_given_out_once() {
        let texts: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
    }
}

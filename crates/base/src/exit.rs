//! The exit codes that scripts may depend on. Additive after 0.1.

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// Something the user can mend: a manifest, a missing secret, a port that is taken, a failed start.
    UserFixable = 1,
    /// The command line itself is wrong (clap's own code).
    Usage = 2,
    /// A defect or an I/O failure on our side.
    Internal = 3,
    /// Nothing runs: there is no control process to ask.
    NotRunning = 4,
    /// Ended by Ctrl-C (128 + SIGINT, as shells report it).
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

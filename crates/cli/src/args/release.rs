//! The grammar of `up`, `plan`, `deploy` and `rollback`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  seaworthy up examples/guestbook\n  seaworthy up --detach")]
pub(crate) struct Up {
    /// The project's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Come back when it serves instead of following the logs
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// The result as JSON (with --detach)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The project's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy deploy                      the folder as it is\n  seaworthy deploy --plan               what would happen\n  seaworthy deploy --git v1.4.0         a tag, branch or commit of the folder's repository\n  git archive HEAD | seaworthy deploy --stdin\n  seaworthy deploy --strategy canary --pause\n\nCtrl-C leaves it going on; `seaworthy abort` takes it back."
)]
pub(crate) struct Deploy {
    /// The project's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Only show what would happen
    #[arg(long)]
    pub(crate) plan: bool,
    /// Files of the folder's git repository at this reference, instead of the folder
    #[arg(long, value_name = "REF", conflicts_with = "stdin")]
    pub(crate) git: Option<String>,
    /// Files of a tar archive on standard input (may be gzipped)
    #[arg(long)]
    pub(crate) stdin: bool,
    /// rolling, blue-green, canary or recreate; the manifest's by default
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Option<String>,
    /// Do not compare it with the old release after the switch
    #[arg(long)]
    pub(crate) no_watch: bool,
    /// Wait for `promote` or `abort` before the switch
    #[arg(long)]
    pub(crate) pause: bool,
    /// Refuse instead of waiting when another deployment goes on
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy rollback shop\n  seaworthy rollback shop --to r41\n  seaworthy rollback shop --to r41 --keep-schema\n  seaworthy rollback shop --with-database     says what is lost, and asks\n\nWhere a migration ran since, `migrate.down` takes it back; without one, say what is to become of the databases."
)]
pub(crate) struct Rollback {
    /// Which site; not needed when there is one only
    pub(crate) site: Option<String>,
    /// To this release instead of the one before
    #[arg(long, value_name = "RELEASE")]
    pub(crate) to: Option<String>,
    /// Go back in the code although the database was migrated since
    #[arg(long, conflicts_with = "with_database")]
    pub(crate) keep_schema: bool,
    /// Bring the databases back too, to their backups from before the first migration since
    #[arg(long)]
    pub(crate) with_database: bool,
    /// Do not ask whether what was written since may be lost
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only show what would happen
    #[arg(long)]
    pub(crate) plan: bool,
    /// The result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

//! The grammar of `backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy backup now                         back up everything that is declared\n  seaworthy backup list                        what there is, and what it is worth\n  seaworthy backup drill database.main         prove that it can be restored\n  seaworthy backup restore database.main --into shop_check\n  seaworthy backup restore database.main --at '2026-11-20 18:00' --yes database.main"
)]
pub(crate) struct Backup {
    #[command(subcommand)]
    pub(crate) what: What,
    /// Which site, as it was last applied; this folder's manifest by default
    #[arg(long, global = true)]
    pub(crate) site: Option<String>,
    /// As JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Make backups now
    Now {
        /// Such as `database.main`; everything that is declared by default
        items: Vec<String>,
    },
    /// What there is, how old, how well proven
    List {
        /// Such as `database.main`: each of its backups
        items: Vec<String>,
        /// The commands that open each file without Seaworthy
        #[arg(long)]
        how: bool,
    },
    /// Re-read what is stored; unchanged files only as often as needed
    Verify {
        /// Such as `database.main`; everything by default
        items: Vec<String>,
        /// Re-read every byte
        #[arg(long)]
        full: bool,
        /// Only this backup
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// Restore into a scratch place and compare with what was saved
    Drill {
        /// Such as `database.main`; everything by default
        items: Vec<String>,
        /// This backup instead of the newest
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Read it from this store
        #[arg(long)]
        store: Option<String>,
    },
    /// Bring a backup back
    Restore(Restore),
    /// Remove what the rules no longer keep
    Prune {
        /// Such as `database.main`; everything by default
        items: Vec<String>,
        /// Only show what would go, and why the rest stays
        #[arg(long)]
        plan: bool,
    },
    /// The owner's key: who can open backups when this server is lost
    Key {
        /// Make another one and show it once
        #[arg(long)]
        new: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Such as `database.main`
    pub(crate) item: String,
    /// An id, or the newest at or before a time; the newest by default
    #[arg(long, value_name = "TIME|ID")]
    pub(crate) at: Option<String>,
    /// Read it from this store
    #[arg(long)]
    pub(crate) store: Option<String>,
    /// Into a new database (folder, file) of that name beside the live one
    #[arg(long, value_name = "NAME", conflicts_with = "to")]
    pub(crate) into: Option<String>,
    /// To another server (`secret:NAME` or a URL) or folder
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// File with the owner's key, where this server's own cannot open it
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// The item's name again: replace the live data
    #[arg(long, value_name = "ITEM")]
    pub(crate) yes: Option<String>,
}

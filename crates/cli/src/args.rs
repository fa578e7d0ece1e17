//! The grammar of the command line.

mod by_hand;
mod release;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use by_hand::{Exec, Hold, Maintenance, Scale, Switch};
pub(crate) use release::{Deploy, Plan, Rollback, Up};

/// Everything that stands around a web application in production: one binary, one file.
#[derive(Debug, Parser)]
#[command(
    name = "seaworthy",
    version,
    about,
    after_help = "Examples:\n  seaworthy init                 write a seaworthy.toml after looking at the folder\n  seaworthy up                   run it: HTTPS, supervised, logged; Ctrl-C stops it\n  seaworthy up --detach          the same in the background\n  seaworthy status               what runs, and what is wrong\n  seaworthy explain instance web why an instance is down or out of rotation"
)]
pub(crate) struct Cli {
    /// State folder instead of the default one (also SEAWORTHY_STATE)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Run the verb on another server, over ssh
    #[arg(long, global = true, value_name = "USER@SERVER")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a commented seaworthy.toml after looking at the folder
    Init(Folder),
    /// Check a manifest and show every problem at once
    Check(Check),
    /// Run a project's folder and follow its logs; Ctrl-C stops what it started
    Up(Up),
    /// Show what `up` would change
    Plan(Plan),
    /// Make a release the one that serves: built, tried, switched to, watched, taken back when it is worse
    Deploy(Deploy),
    /// Go back to an earlier release, without building
    Rollback(Rollback),
    /// Releases and deployments of a site
    Releases(SiteJson),
    /// Let a paused deployment go on
    Promote(SiteOnly),
    /// Stop a deployment; the old release serves
    Abort(SiteOnly),
    /// Let a site's requests wait for a while
    Hold(Hold),
    /// Answer a site's requests with a maintenance page
    Maintenance(Maintenance),
    /// Another number of instances, remembered until it is taken back
    Scale(Scale),
    /// Run a program in a service's environment, folder and user
    Exec(Exec),
    /// Run a shell line in a service's environment, folder and user
    Run(Exec),
    /// Write a systemd unit, so that everything is back by itself after a reboot
    Install(Install),
    /// Let another build of Seaworthy take over: nothing is dropped, applications are untouched
    Upgrade(Upgrade),
    /// Jobs of a site: their times and results, and running one now
    Job(Job),
    /// Who did what, in a log that shows when it was edited
    Audit(Audit),
    /// Stop a site, or everything
    Down(Down),
    /// What runs, and what is wrong
    Status(Status),
    /// Show logs of a site's services
    Logs(Logs),
    /// Restart a site, a service, an instance or the edge, dropping nothing
    Restart(Restart),
    /// Why a request was answered as it was, or why an instance is down or out
    Explain(Explain),
    /// Who is locked out, and letting them in again
    Limits(Limits),
    /// Answers that the edge keeps
    Cache(Cache),
    /// Values of secrets, encrypted on this server
    Secrets(Secrets),
    /// Backups that are proven by restoring
    Backup(crate::backup::arguments::Backup),
    /// Certificates
    Cert(Cert),
    /// Print the JSON schema of seaworthy.toml
    Schema,
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man,
    /// Print generated references
    #[command(name = "__reference", hide = true)]
    Reference { what: String },
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The project's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Print the manifest instead of writing it
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Folder of the manifest, or the file itself
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The same
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub(crate) manifest: Option<PathBuf>,
    /// Problems as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SiteOnly {
    /// Which site; not needed when there is one only
    pub(crate) site: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SiteJson {
    /// Which site; not needed when there is one only
    pub(crate) site: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo seaworthy install\n  seaworthy install --print\n  sudo seaworthy install --remove"
)]
pub(crate) struct Install {
    /// Print the unit instead of writing it
    #[arg(long)]
    pub(crate) print: bool,
    /// Disable and remove it; what runs goes on
    #[arg(long, conflicts_with = "print")]
    pub(crate) remove: bool,
    /// Folder of units
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    pub(crate) units: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ./seaworthy upgrade                     this very program takes over\n  seaworthy upgrade /opt/seaworthy-0.2    another one does\n\nA build that does not come up changes nothing: the one before runs again."
)]
pub(crate) struct Upgrade {
    /// The new program; this one by default
    pub(crate) program: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Job {
    #[command(subcommand)]
    pub(crate) what: JobWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobWhat {
    /// When each runs next, and how it last went
    List(SiteJson),
    /// Run one now, and wait for its end
    Run {
        /// `job`, or `site/job`
        job: String,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// `verify` checks the chain only
    #[arg(value_parser = ["verify"])]
    pub(crate) what: Option<String>,
    /// What `verify` printed once, kept elsewhere: a log that was cut off or written anew lacks it
    #[arg(long, value_name = "HASH", requires = "what")]
    pub(crate) since: Option<String>,
    /// The newest so many entries
    #[arg(long, default_value_t = 50, value_name = "ENTRIES")]
    pub(crate) tail: u32,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Which site; the one of this folder when there is only one
    pub(crate) site: Option<String>,
    /// Every site, and the platform itself
    #[arg(long, conflicts_with = "site")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  seaworthy logs shop --follow\n  seaworthy logs shop/web/1 --tail 1000\n  seaworthy logs shop --access --format combined\n  seaworthy logs shop/web --since 10m --grep 'error|warn'"
)]
pub(crate) struct Logs {
    /// `site`, `site/service` or `site/service/slot`; not needed when there is one site only
    #[arg(value_name = "TARGET")]
    pub(crate) site: Option<String>,
    /// Only this service
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only this instance (slot, or slot@generation)
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Only lines younger than this
    #[arg(long, value_name = "DURATION")]
    pub(crate) since: Option<String>,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(crate) grep: Option<String>,
    /// Go on as lines are written
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The newest lines of each instance; 100, or all with --since and --grep
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// The control process's own log
    #[arg(long)]
    pub(crate) control: bool,
    /// The requests that the edge answered
    #[arg(long, conflicts_with_all = ["control", "service", "instance"])]
    pub(crate) access: bool,
    /// How requests look (with --access)
    #[arg(long, value_enum, default_value_t = LogFormat::Json, requires = "access")]
    pub(crate) format: LogFormat,
}

/// How a request looks in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line, as it is written
    Json,
    /// As web servers write it
    Combined,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// `site`, `site/service` or `site/service/slot`
    #[arg(required_unless_present = "edge")]
    pub(crate) target: Option<String>,
    /// The edge: a new one takes over, the old one finishes what it has
    #[arg(long, conflicts_with = "target")]
    pub(crate) edge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(subcommand)]
    pub(crate) what: ExplainWhat,
    /// As JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainWhat {
    /// One request, by the id on its error page or in `X-Request-Id`
    Request { id: String },
    /// An instance, a service or a site: the worst of it
    Instance { name: String },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy limits list\n  seaworthy limits clear ann@example.com --site shop\n  seaworthy limits clear 192.0.2.7"
)]
pub(crate) struct Limits {
    #[command(subcommand)]
    pub(crate) what: LimitsWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LimitsWhat {
    /// Which addresses and accounts are locked out, and for how long
    List(Json),
    /// Let in again, and count anew: an address, an account by its name, or what `list` shows
    Clear {
        /// Who
        #[arg(required_unless_present = "all")]
        who: Option<String>,
        /// Only at this site
        #[arg(long)]
        site: Option<String>,
        /// Everybody; without `--site` circuit breakers close too, and rates of whole sites are forgotten
        #[arg(long, conflicts_with = "who")]
        all: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy cache purge shop\n  seaworthy cache purge shop '/assets/*'"
)]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub(crate) what: CacheWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheWhat {
    /// Forget what is kept of a site, or of some of its paths
    Purge {
        /// Which site
        site: String,
        /// A path, or a pattern with `*`; everything when it is left out
        path: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Secrets {
    #[command(subcommand)]
    pub(crate) what: SecretsWhat,
    /// Which site; the one of this folder's manifest by default
    #[arg(long, global = true)]
    pub(crate) site: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsWhat {
    /// Set a value, read from standard input so that it stands in no history
    Set { name: String },
    /// Print a value
    Get { name: String },
    /// Names, ages and since when they are used
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take all values of a dotenv file
    Import { file: PathBuf },
    /// Set a random value
    Generate {
        name: String,
        /// Characters
        #[arg(long, default_value_t = 40)]
        length: usize,
    },
    /// Replace a value by a random one of the same length
    Rotate { name: String },
}

#[derive(Debug, Args)]
pub(crate) struct Cert {
    #[command(subcommand)]
    pub(crate) what: CertWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertWhat {
    /// Which certificates are served, until when, and what is wrong with them
    List(CertList),
    /// Get a site's certificate now, or find out whether it could be had
    Renew(CertRenew),
    /// How to trust this platform's own authority
    Trust,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy cert list\n  seaworthy cert list --site shop --json"
)]
pub(crate) struct CertList {
    /// Of this site only
    #[arg(long, value_name = "NAME")]
    pub(crate) site: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy cert renew --dry-run     would it work? nothing is issued, nothing is changed\n  seaworthy cert renew --site shop   get one now, whether it is due or not"
)]
pub(crate) struct CertRenew {
    /// Which site; not needed when only one asks an authority
    #[arg(long, value_name = "NAME")]
    pub(crate) site: Option<String>,
    /// Look at the names and have the authority look, too, but leave it at that
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

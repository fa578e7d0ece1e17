//! The grammar of what people do to a site by hand: `hold`, `maintenance`, `scale`, `exec`, `run`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  seaworthy hold shop --for 20s\n  seaworthy hold shop --off")]
pub(crate) struct Hold {
    /// Which site; not needed when there is one only
    pub(crate) site: Option<String>,
    /// At the longest; it ends by itself
    #[arg(long = "for", value_name = "DURATION", default_value = "30s")]
    pub(crate) period: String,
    /// So many requests wait; more are refused
    #[arg(long, default_value_t = 1000, value_name = "REQUESTS")]
    pub(crate) most: u32,
    /// Let them go on now
    #[arg(long)]
    pub(crate) off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy maintenance on shop --page back-soon.html --allow 10.0.0.0/8\n  seaworthy maintenance off shop"
)]
pub(crate) struct Maintenance {
    /// `on` or `off`
    pub(crate) switch: Switch,
    /// Which site; not needed when there is one only
    pub(crate) site: Option<String>,
    /// The page to show (HTML)
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
    /// When clients are told to come again
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub(crate) retry_after: String,
    /// Networks that are served all the same
    #[arg(long, value_name = "NETWORK")]
    pub(crate) allow: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy scale shop/web 4\n  seaworthy scale shop/web --manifest"
)]
pub(crate) struct Scale {
    /// `site/service`
    pub(crate) target: String,
    /// How many instances
    #[arg(required_unless_present = "manifest")]
    pub(crate) count: Option<u16>,
    /// As many as the manifest says
    #[arg(long, conflicts_with = "count")]
    pub(crate) manifest: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  seaworthy exec shop/web -- python3 manage.py shell\n  seaworthy run shop/web 'du -sh $DATA | sort'"
)]
pub(crate) struct Exec {
    /// `site/service`
    pub(crate) target: String,
    /// The program and its arguments, or one line for the shell
    #[arg(required = true, trailing_var_arg = true)]
    pub(crate) words: Vec<String>,
}

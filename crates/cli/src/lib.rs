//! The command line: one file for each group of verbs, and the roles dispatched before anything else.
//!
//! Data goes to standard output, talk to standard error; `--json` on everything that prints data; errors
//! end with the next command to type. Invariant: nothing is decided here that control does not decide.

mod access;
mod args;
mod backup;
mod by_hand;
mod certificates;
mod counts;
mod deploy;
mod explain;
mod install;
mod jobs;
mod logs;
mod manifest;
mod platform;
mod progress;
mod releases;
mod remote;
mod render;
mod rollback;
mod secrets;
mod up;
mod upgrade;

use std::process::ExitCode;

use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use seaworthy_api::Layout;
use seaworthy_base::Exit;

/// Parses the command line, does what it says, and maps the result to an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = seaworthy_sys::process::current_uid() == 0;
    let layout = Layout::find(cli.state.as_deref(), root);
    let done = match cli.host.clone() {
        Some(host) => remote::run(&host, &cli.verb),
        None => dispatch(cli, &layout),
    };
    let exit = match done {
        Ok(exit) => exit,
        Err(failure) => render::fail(&failure),
    };
    exit.into()
}

fn dispatch(cli: Cli, layout: &Layout) -> Result<Exit, render::Failure> {
    match cli.verb {
        Verb::Init(options) => manifest::init(&options),
        Verb::Check(options) => manifest::check(&options),
        Verb::Schema => manifest::schema(),
        Verb::Reference { what } => manifest::reference(&what),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "seaworthy", &mut text);
            // Who reads only its beginning is no fault.
            render::print(&String::from_utf8_lossy(&text));
            Ok(Exit::Ok)
        }
        Verb::Man => manifest::man(),
        Verb::Up(options) => platform::block_on(up::up(layout, &options)),
        Verb::Plan(options) => platform::block_on(up::plan(layout, &options)),
        Verb::Deploy(options) => platform::block_on(deploy::deploy(layout, &options)),
        Verb::Rollback(options) => platform::block_on(rollback::rollback(layout, &options)),
        Verb::Releases(options) => platform::block_on(releases::releases(layout, &options)),
        Verb::Promote(options) => {
            platform::block_on(deploy::order(layout, options.site.as_deref(), "promote"))
        }
        Verb::Abort(options) => {
            platform::block_on(deploy::order(layout, options.site.as_deref(), "abort"))
        }
        Verb::Hold(options) => platform::block_on(by_hand::hold(layout, &options)),
        Verb::Maintenance(options) => platform::block_on(by_hand::maintenance(layout, &options)),
        Verb::Scale(options) => platform::block_on(by_hand::scale(layout, &options)),
        Verb::Exec(options) => by_hand::exec(layout, &options, false),
        Verb::Run(options) => by_hand::exec(layout, &options, true),
        Verb::Install(options) => install::install(layout, &options),
        Verb::Upgrade(options) => platform::block_on(upgrade::upgrade(layout, &options)),
        Verb::Job(options) => platform::block_on(jobs::job(layout, &options.what)),
        Verb::Audit(options) => platform::block_on(by_hand::audit(layout, &options)),
        Verb::Down(options) => platform::block_on(platform::down(layout, &options)),
        Verb::Status(options) => platform::block_on(platform::status(layout, &options)),
        Verb::Restart(options) => platform::block_on(platform::restart(layout, &options)),
        Verb::Explain(options) => platform::block_on(explain::explain(layout, &options)),
        Verb::Logs(options) => logs::logs(layout, &options),
        Verb::Limits(options) => platform::block_on(counts::limits(layout, &options)),
        Verb::Cache(options) => platform::block_on(counts::cache(layout, &options)),
        Verb::Secrets(options) => secrets::secrets(layout, &options),
        Verb::Backup(options) => platform::block_on(backup::backup(layout, &options)),
        Verb::Cert(options) => platform::block_on(certificates::cert(layout, &options)),
    }
}

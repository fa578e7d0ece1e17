//! Verbs about the manifest and other texts: init, check, schema, references, how to trust our authority.

use clap::CommandFactory;
use seaworthy_base::{Code, Exit, Fault};

use crate::args::{Check, Cli, Folder};
use crate::render::{self, Failure, io_failure};

/// Writes a first manifest; never over one that is there.
pub(crate) fn init(options: &Folder) -> Result<Exit, Failure> {
    let file = options.dir.join("seaworthy.toml");
    let made = seaworthy_manifest::init(&options.dir).map_err(|error| {
        Fault::new(Code::FileMissing, format!("could not look at `{}`", options.dir.display()))
            .because(error.to_string())
    })?;
    if options.print {
        render::print(&made.text);
        return Ok(Exit::Ok);
    }
    if file.exists() {
        return Err(Fault::new(
            Code::ManifestInvalid,
            format!("`{}` is there already", file.display()),
        )
        .next("seaworthy check")
        .into());
    }
    seaworthy_sys::files::write_atomically(&file, made.text.as_bytes(), 0o644)
        .map_err(|error| io_failure(&format!("could not write `{}`", file.display()), &error))?;
    made.found.iter().for_each(|found| render::talk(&format!("found {found}")));
    render::talk(&format!(
        "wrote {}\nnext: seaworthy up {}",
        file.display(),
        options.dir.display()
    ));
    Ok(Exit::Ok)
}

/// Shows every problem of a manifest.
pub(crate) fn check(options: &Check) -> Result<Exit, Failure> {
    match seaworthy_manifest::load(options.manifest.as_ref().unwrap_or(&options.dir)) {
        Ok(site) => {
            if options.json {
                render::json(
                    &serde_json::json!({ "v": 1, "ok": true, "site": site.name, "problems": [] }),
                );
            } else {
                render::talk(&format!(
                    "ok: site `{}`, {}, {}",
                    site.name,
                    render::counted(site.services.len(), "service"),
                    render::counted(site.routes.len(), "route")
                ));
            }
            Ok(Exit::Ok)
        }
        Err(report) if options.json => {
            render::json(
                &serde_json::json!({ "v": 1, "ok": false, "code": report.code, "file": report.file, "problems": report.problems, "more": report.more }),
            );
            Ok(Exit::UserFixable)
        }
        Err(report) => {
            render::talk(report.render(render::color()).trim_end());
            let count = report.total();
            render::talk(&format!(
                "\n{count} problem{} ({})",
                if count == 1 { "" } else { "s" },
                report.code
            ));
            Ok(Exit::UserFixable)
        }
    }
}

/// The JSON schema.
pub(crate) fn schema() -> Result<Exit, Failure> {
    render::json(&seaworthy_manifest::schema());
    Ok(Exit::Ok)
}

/// References for the documentation: `manifest`, `codes`, `cli`, `schema`.
pub(crate) fn reference(what: &str) -> Result<Exit, Failure> {
    match what {
        "manifest" => render::print(&seaworthy_manifest::reference()),
        "schema" => return schema(),
        "codes" => {
            let rows: Vec<String> = Code::ALL
                .iter()
                .map(|code| format!("| `{code}` | {} |\n", code.meaning()))
                .collect();
            render::print(&format!(
                "# Error codes\n\nMade by `cargo xtask gen`. A code keeps its meaning.\n\n| code | meaning |\n| --- | --- |\n{}",
                rows.concat()
            ));
        }
        "cli" => render::print(&cli_reference()),
        other => {
            return Err(
                Fault::new(Code::Internal, format!("there is no reference `{other}`")).into()
            );
        }
    }
    Ok(Exit::Ok)
}

fn cli_reference() -> String {
    let mut out = String::from("# Command line\n\nMade by `cargo xtask gen`.\n");
    let mut command = Cli::command().term_width(100);
    command.build();
    for verb in command
        .get_subcommands_mut()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
    {
        let help = verb.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        out.push_str(&format!(
            "\n## {}\n\n```text\n{}\n```\n",
            verb.get_name(),
            lines.join("\n").trim_end()
        ));
    }
    out
}

/// The manual page.
pub(crate) fn man() -> Result<Exit, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|error| io_failure("could not make the manual page", &error))?;
    render::print(&String::from_utf8_lossy(&page));
    Ok(Exit::Ok)
}

//! Describes a site: a manifest, files beside it, fake applications in it.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A project folder to be written into a sandbox.
///
/// Either [`Site::manifest`] gives the whole text (in it `{fakeapp}` stands for the fake application's
/// program and `{listen}` for a `[listen]` table with free ports), or it is made from the applications.
#[derive(Debug, Clone, Default)]
pub struct Site {
    pub(crate) name: String,
    manifest: Option<String>,
    apps: Vec<(String, FakeApp)>,
    extra: String,
    routed: bool,
    pub(crate) files: Vec<(String, String)>,
}

impl Site {
    /// A site of that name, at `NAME.localhost`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The whole manifest.
    pub fn manifest(mut self, text: &str) -> Self {
        self.manifest = Some(text.to_owned());
        self
    }

    /// A service that is a fake application.
    pub fn app(mut self, service: &str, app: FakeApp) -> Self {
        self.apps.push((service.to_owned(), app));
        self
    }

    /// Text at the end of a manifest that is made: more services, tables.
    pub fn more(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self.extra.push('\n');
        self
    }

    /// A route; without any, everything goes to the first application.
    pub fn route(mut self, path: &str, to: &str) -> Self {
        self.routed = true;
        let _infallible = writeln!(self.extra, "[[route]]\npaths = [\"{path}\"]\nto = \"{to}\"");
        self
    }

    /// A file of the project.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// The host that it is served at.
    pub fn host(&self) -> String {
        format!("{}.localhost", self.name)
    }

    /// The text of `seaworthy.toml`.
    pub(crate) fn text(&self, fakeapp: &str) -> String {
        const LISTEN: &str = "[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\n";
        if let Some(manifest) = &self.manifest {
            return manifest.replace("{fakeapp}", fakeapp).replace("{listen}", LISTEN);
        }
        let mut text =
            format!("site = \"{}\"\ndomains = [\"{}\"]\n{LISTEN}", self.name, self.host());
        for (service, app) in &self.apps {
            let _infallible = write!(text, "[service.{service}]\n{}", app.text(fakeapp));
        }
        text.push_str(&self.extra.replace("{fakeapp}", fakeapp));
        if let (false, Some((first, _))) = (self.routed, self.apps.first()) {
            let _infallible = write!(text, "[[route]]\npaths = [\"/*\"]\nto = \"{first}\"\n");
        }
        text
    }
}

/// A service that runs the fake application; see [`crate::fakeapp`] for what it can do wrong.
#[derive(Debug, Clone, Default)]
pub struct FakeApp {
    flags: Vec<String>,
    keys: Vec<String>,
    health: Option<String>,
}

impl FakeApp {
    /// One that behaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag of the program.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// A line of the service's table, such as `instances = 2`.
    pub fn key(mut self, line: &str) -> Self {
        self.keys.push(line.to_owned());
        self
    }

    /// The value of `health`; without it checks of `/health` twice a second that fail fast.
    pub fn health(mut self, value: &str) -> Self {
        self.health = Some(value.to_owned());
        self
    }

    /// So many copies.
    pub fn instances(self, count: u16) -> Self {
        self.key(&format!("instances = {count}"))
    }

    /// Starts to listen that much later, such as `2s`.
    pub fn slow_start(self, delay: &str) -> Self {
        self.flag(&format!("--slow-start {delay}"))
    }

    /// Ends right after its start, each time.
    pub fn crash_loop(self) -> Self {
        self.flag("--crash-loop")
    }

    /// Runs without listening.
    pub fn never_listen(self) -> Self {
        self.flag("--never-listen")
    }

    /// Does not end on TERM.
    pub fn ignore_term(self) -> Self {
        self.flag("--ignore-term")
    }

    /// Starts that many children that leave the session and ignore TERM.
    pub fn grandchildren(self, count: usize) -> Self {
        self.flag(&format!("--grandchildren {count}"))
    }

    /// Allocates until it is ended.
    pub fn leak(self) -> Self {
        self.flag("--leak")
    }

    /// Listens there instead of on loopback.
    pub fn bind(self, address: IpAddr) -> Self {
        self.flag(&format!("--bind {address}"))
    }

    /// Listens on that port whatever `$PORT` says.
    pub fn port(self, port: u16) -> Self {
        self.flag(&format!("--port {port}"))
    }

    /// Answers 500 to everything but `/health` after so many requests.
    pub fn broken_after(self, requests: usize) -> Self {
        self.flag(&format!("--broken-after {requests}"))
    }

    /// Will not start without that variable.
    pub fn require_env(self, name: &str) -> Self {
        self.flag(&format!("--require-env {name}"))
    }

    /// Answers health checks with that status.
    pub fn health_status(self, status: u16) -> Self {
        self.flag(&format!("--health-status {status}"))
    }

    fn text(&self, fakeapp: &str) -> String {
        const HEALTH: &str = "{ ready = { path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"3s\" }, live = { path = \"/health\", status = [200, 503], every = \"500ms\", timeout = \"2s\", failures = 2, start = \"3s\" } }";
        let run = [&[fakeapp.to_owned()], self.flags.as_slice()].concat().join(" ");
        let keys = self.keys.join("\n");
        format!("run = {run:?}\nhealth = {}\n{keys}\n", self.health.as_deref().unwrap_or(HEALTH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_made_from_the_applications() {
        let site = Site::new("shop")
            .app("web", FakeApp::new().ignore_term().instances(2).health("\"/health\""));
        let expected = "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\n[service.web]\nrun = \"/x/fakeapp --ignore-term\"\nhealth = \"/health\"\ninstances = 2\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n";
        assert_eq!(site.text("/x/fakeapp"), expected);
    }

    #[test]
    fn a_given_manifest_is_taken_as_it_is_but_for_the_two_words() {
        let site = Site::new("shop").manifest("{listen}x = \"{fakeapp} {other}\"");
        assert!(site.text("/x").ends_with("x = \"/x {other}\""));
        assert!(site.text("/x").contains("127.0.0.1:0"));
    }
}

//! One change of the configuration after another, of every kind that must touch nobody else.
//!
//! A site that serves gets and loses routes beside those that are under load; a neighbour comes, changes its hosts,
//! limits and headers, is closed and opened by hand, and goes. Invariant: each change is seen to be served (or to have
//! gone) before the next. Not here: the load, and what it may lose, which is nothing.

use crate::{Sandbox, Site};

/// Kinds of change; they come in turn.
const KINDS: u32 = 8;

/// Changes around a site.
#[derive(Debug)]
pub struct Changes {
    base: Site,
    made: u32,
}

impl Changes {
    /// Beside this site, whose services and routes stay as they are. It must not route below `/changes`.
    pub fn beside(base: Site) -> Self {
        Self { base, made: 0 }
    }

    /// Makes the next one, and sees that it came to be.
    pub fn make(&mut self, sandbox: &Sandbox) {
        let number = self.made;
        self.made += 1;
        match number % KINDS {
            0 => self.own(sandbox, &respond("/changes", number), number),
            1 => {
                let limited = format!(
                    "{}limit = \"{}/s by ip\"\n",
                    respond("/changes", number),
                    number + 1000
                );
                self.own(sandbox, &limited, number);
            }
            2 => {
                let guarded = format!(
                    "{}csp = \"default-src 'self'\"\ncsrf = false\n",
                    respond("/changes", number)
                );
                self.own(sandbox, &guarded, number);
            }
            3 => neighbour(sandbox, &respond("/*", number), number),
            4 => {
                let more = format!("{}{}", respond("/more", 0), respond("/*", number));
                neighbour(sandbox, &more, number);
            }
            5 => by_hand(sandbox, "on", 503),
            6 => by_hand(sandbox, "off", 200),
            _ => {
                sandbox.run(["down", NEIGHBOUR]).success();
            }
        }
    }

    fn own(&self, sandbox: &Sandbox, route: &str, number: u32) {
        sandbox.up(&self.base.clone().more(route));
        assert_eq!(sandbox.https(&self.base).get("/changes").text(), number.to_string());
    }
}

const NEIGHBOUR: &str = "neighbour";

/// A route that answers with a number.
fn respond(path: &str, number: u32) -> String {
    format!("[[route]]\npaths = [\"{path}\"]\nrespond = {{ status = 200, body = \"{number}\" }}\n")
}

fn neighbour(sandbox: &Sandbox, routes: &str, number: u32) {
    let site = Site::new(NEIGHBOUR)
        .file("public/index.html", "<p>next door</p>")
        .more(&format!("[service.page]\nstatic = \"public\"\n{routes}"));
    sandbox.up(&site);
    assert_eq!(sandbox.https(&site).get("/").text(), number.to_string());
}

fn by_hand(sandbox: &Sandbox, switch: &str, status: u16) {
    sandbox.run(["maintenance", switch, NEIGHBOUR]).success();
    assert_eq!(sandbox.https(&Site::new(NEIGHBOUR)).get("/").status, status);
}

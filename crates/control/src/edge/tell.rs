//! What the edge is told: keys, routes, instances.
//!
//! Invariants: routes and instances that belong together are told together; an edge that refuses keeps what it had,
//! and so do we; one that dies over it has refused nothing. Not here: when it is told (`serve`, `reconcile`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use seaworthy_base::Fault;
use seaworthy_base::challenge::Shown;
use seaworthy_edge::model::{
    Certificate, Config, Endpoint, Endpoints, Handshake, Keys, OWN_SOCKETS, Request, Site,
    UNIX_SOCKETS, WHOLE, WayOut,
};

use super::{ENDING, Edge, Sockets, edge_fault};
use crate::edge_link::{Link, LinkError};

/// All that an edge is told beside sockets.
#[derive(Debug)]
pub(crate) struct Told {
    config: Config,
    endpoints: Endpoints,
    keys: Keys,
    ways: (Vec<WayOut>, Option<String>),
}

impl Edge {
    /// What the next edge would be told.
    pub(crate) fn told(&self) -> Told {
        let (config, endpoints) = (self.config.clone(), self.endpoints.clone());
        Told { config, endpoints, keys: self.keys.clone(), ways: self.ways.clone() }
    }

    /// Goes back to that, as far as no edge took what came after it: an edge that is gone took nothing, since the next one
    /// would begin with it; one that lives has what it was told until it refused.
    pub(crate) fn take_back_to(&mut self, told: Told) {
        let Told { config, endpoints, keys, ways } = told;
        let gone = self.is_gone();
        if gone || self.keys.version == keys.version {
            self.keys = keys;
        }
        if gone || self.config.version == config.version {
            (self.config, self.endpoints, self.ways) = (config, endpoints, ways);
        }
    }

    /// The certificates that the edge has.
    pub(crate) fn certificates(&self) -> &[Certificate] {
        &self.keys.certificates
    }

    /// The chain that the edge shows to who asks for that name: the last that is for it, and the first of all where none
    /// is. An address is no name of a server.
    pub(crate) fn shown_to(&self, host: &str) -> Option<&str> {
        let all = &self.keys.certificates;
        let host = host.to_ascii_lowercase();
        let of =
            |name: &str| all.iter().rev().find(|one| one.hosts.iter().any(|host| host == name));
        let wild = || of(&format!("*.{}", host.split_once('.')?.1));
        let is_name = host.parse::<IpAddr>().is_err();
        let named = if is_name { of(&host).or_else(wild) } else { None };
        named.or(all.first()).map(|one| one.chain_pem.as_str())
    }

    /// Sends certificates and the secrets that routes name; an edge that refuses keeps what it had, and so do we.
    pub(crate) async fn configure(
        &mut self,
        certificates: Vec<Certificate>,
        secrets: BTreeMap<String, String>,
    ) -> Result<(), Fault> {
        let signing = Some(self.options.signing);
        let version = self.next_version();
        let keys = Keys { version, certificates, signing, secrets, ..self.keys.clone() };
        self.send_keys(keys, "the edge did not take the new configuration").await
    }

    async fn send_keys(&mut self, keys: Keys, refused: &str) -> Result<(), Fault> {
        if let Some(link) = self.link.clone().filter(|link| !link.is_dead()) {
            let told = link.ask(Request::Keys(keys.clone()), Vec::new()).await.map(drop);
            unless_dead(&link, told).map_err(|error| edge_fault(refused, &error))?;
        }
        self.keys = keys;
        Ok(())
    }

    /// Sends routes and instances, for an edge of this version in one message. Instances of services that are
    /// not named any more stay known until [`Self::point`]: who was routed to one before is still served.
    /// An edge that refuses keeps what it had, and so do we.
    pub(crate) async fn route(
        &mut self,
        sites: Vec<Site>,
        mut services: BTreeMap<String, Vec<Endpoint>>,
    ) -> Result<(), Fault> {
        for (key, known) in &self.endpoints.services {
            if !services.contains_key(key) {
                services.insert(key.clone(), known.clone());
            }
        }
        let failed = |error| edge_fault("the edge did not take the new configuration", &error);
        let (outgoing, roots_pem) = self.ways.clone();
        let config = Config { version: self.next_version(), sites, outgoing, roots_pem };
        let endpoints = Endpoints { version: self.next_version(), services };
        let opens_up = self.must_open_up(&endpoints);
        if let Some(link) = self.link.clone().filter(|link| !link.is_dead()) {
            let told = if opens_up {
                // The next one gets the instances: this one says whether it takes the routes.
                link.ask(Request::Config(config.clone()), Vec::new()).await.map(drop)
            } else {
                send_both(&link, &config, &endpoints).await
            };
            unless_dead(&link, told).map_err(failed)?;
        }
        let moved = self.endpoints.services != endpoints.services;
        (self.config, self.endpoints) = (config, endpoints);
        if opens_up {
            return self.replace(ENDING).await;
        }
        if moved { self.point_older().await.map_err(failed) } else { Ok(()) }
    }

    /// Sets what is demanded of handshakes; it is sent with the next certificates.
    pub(crate) fn demand(&mut self, handshakes: Vec<Handshake>) {
        self.keys.handshakes = handshakes;
    }

    /// Sends certificates and what authorities are to find; routes stay.
    pub(crate) async fn rekey(
        &mut self,
        certificates: Vec<Certificate>,
        challenges: Vec<Shown>,
    ) -> Result<(), Fault> {
        let version = self.next_version();
        let keys = Keys { version, certificates, challenges, ..self.keys.clone() };
        self.send_keys(keys, "the edge did not take the new certificates").await
    }

    /// Tells every living edge where the instances are, if that changed. Returns whether it did.
    pub(crate) async fn point(
        &mut self,
        services: BTreeMap<String, Vec<Endpoint>>,
    ) -> Result<bool, LinkError> {
        if self.endpoints.services == services {
            return Ok(false);
        }
        let endpoints = Endpoints { version: self.next_version(), services };
        let opens_up = self.must_open_up(&endpoints);
        self.endpoints = endpoints;
        if opens_up {
            return self.replace(ENDING).await.map(|()| true).map_err(|fault| {
                LinkError::Refused(format!("it may open no Unix sockets, and {fault}"))
            });
        }
        if let Some(link) = self.link.as_ref().filter(|link| !link.is_dead()) {
            link.ask(Request::Endpoints(self.endpoints.clone()), Vec::new()).await?;
        }
        self.point_older().await?;
        Ok(true)
    }

    /// Tells edges that finish where the instances are: their connections go on.
    async fn point_older(&self) -> Result<(), LinkError> {
        for (_, link) in self.draining.iter().filter(|(_, link)| !link.is_dead()) {
            let endpoints = Request::Endpoints(self.endpoints.clone());
            unless_dead(link, link.ask(endpoints, Vec::new()).await.map(drop))?;
        }
        Ok(())
    }

    /// Whether an instance listens on a Unix socket that the edge that runs was started without leave to open.
    fn must_open_up(&self, endpoints: &Endpoints) -> bool {
        let living = self.link.as_ref().filter(|link| !link.is_dead());
        living.is_some_and(|link| self.needed(endpoints) > may_open(link))
    }

    /// The leave that an edge needs for these instances.
    pub(super) fn needed(&self, endpoints: &Endpoints) -> Sockets {
        let own = self.options.layout.sockets();
        let all = endpoints.services.values().flatten().filter_map(|one| one.socket.as_ref());
        all.map(|path| if path.starts_with(&own) { Sockets::Own } else { Sockets::Any })
            .max()
            .unwrap_or(Sockets::None)
    }
}

/// The leave that an edge was started with.
fn may_open(link: &Link) -> Sockets {
    if link.has(UNIX_SOCKETS) {
        Sockets::Any
    } else if link.has(OWN_SOCKETS) {
        Sockets::Own
    } else {
        Sockets::None
    }
}

/// An edge that died over a question has refused nothing: the next one is introduced to all that holds by then.
pub(super) fn unless_dead(link: &Link, told: Result<(), LinkError>) -> Result<(), LinkError> {
    if link.is_dead() { Ok(()) } else { told }
}

/// Routes and instances. One of the version before gets the instances first: no route may lead nowhere.
async fn send_both(link: &Link, config: &Config, endpoints: &Endpoints) -> Result<(), LinkError> {
    let (config, endpoints) = (config.clone(), endpoints.clone());
    if link.has(WHOLE) {
        return link.ask(Request::Whole { config, endpoints }, Vec::new()).await.map(drop);
    }
    link.ask(Request::Endpoints(endpoints), Vec::new()).await?;
    link.ask(Request::Config(config), Vec::new()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::tests::edge;
    use std::time::Duration;

    #[tokio::test]
    async fn an_edge_of_the_version_before_knows_the_instances_before_the_routes() {
        for (features, expected) in
            [(&[WHOLE][..], &["whole"][..]), (&[], &["endpoints", "config"])]
        {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("edge");
            let told = edge(&socket, std::process::id(), features, 0);
            let link = Link::connect(&socket, Duration::from_secs(10), std::sync::Arc::default());
            let link = link.unwrap();
            send_both(&link, &Config::default(), &Endpoints::default()).await.unwrap();
            assert_eq!(told.try_iter().collect::<Vec<_>>(), expected);
        }
    }
}

//! A stand-in for Amazon's Route 53: checks signatures, and writes into the test's name server.
//!
//! In another language and from the description of Signature Version 4, so that no mistake is shared with ours.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::acme::free_port;
use super::{KEY, KEY_NAME, Named, Place, Server, command_as};
use crate::eventually;

/// A running one, for the zone of the name server.
#[derive(Debug)]
pub struct Route53 {
    _server: Server,
    _place: Place,
    /// Where its API is.
    pub endpoint: String,
}

/// Its access key and secret key.
pub const ROUTE53_KEYS: (&str, &str) = ("AKIATEST", "s3cr3t/key+");

impl Route53 {
    /// Starts it.
    #[track_caller]
    pub fn start(names: &Named) -> Self {
        let (place, port) = (Place::new(), free_port());
        fs::write(place.path().join("api.py"), include_str!("route53.py")).expect("a program");
        // As ourselves: an interpreter may lie in a home that is closed to others.
        let mut program = command_as(None, Path::new("python3"), place.path());
        program.args(["api.py", &port.to_string()]);
        program.env("DNS_PORT", names.address.port().to_string());
        program.env("DNS_KEY", format!("{KEY_NAME} {KEY}"));
        let mut server = Server::start(program, &place.path().join("log"));
        eventually("the API listens", Duration::from_secs(20), || {
            server.must_live();
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { _server: server, _place: place, endpoint: format!("http://127.0.0.1:{port}") }
    }
}

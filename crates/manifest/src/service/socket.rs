//! `socket` of a service: where in its own folder a program listens.
//!
//! Invariants: what is accepted is a path below a folder that each instance has for itself, so that no two instances, of
//! one release or of two, ever share a socket; it leaves room for that folder in a socket's address. Not here: where that
//! folder is, which only the machine tells.

use std::ops::Range;
use std::path::{Component, Path};

use toml::de::DeValue;

use crate::read::{Found, Reader};
use crate::site::PortUse;

/// The name of a socket that nobody named.
const NAME: &str = "sock";
/// A socket's address has room for 107 bytes; the folder before the name takes some.
const LONGEST: usize = 64;

/// How the service listens where it has a `socket`; none where it listens on ports.
pub(super) fn read_socket(reader: &mut Reader<'_>, found: &Found<'_>) -> Option<PortUse> {
    let (key, value) = found.get("socket")?;
    let name = match value.get_ref() {
        DeValue::Boolean(false) => return None,
        DeValue::Boolean(true) => NAME.to_owned(),
        DeValue::String(text) => {
            let sound = check_name(reader, &value.span(), text);
            if sound { text.to_string() } else { NAME.to_owned() }
        }
        _ => {
            let message = "`socket` is `true`, or the name of the file that the program insists on";
            reader.problem(value.span(), message, Some("socket = true".to_owned()));
            NAME.to_owned()
        }
    };
    for other in ["port", "ports"] {
        if found.contains_key(other) {
            let message = format!(
                "`socket` and `{other}` exclude each other: it listens on one or the other"
            );
            reader.problem(key.clone(), message, None);
        }
    }
    if found.contains_key("upstreams") {
        let message = "`socket` is of a program that we start (`run`)";
        let help = "of others it is an upstream: upstreams = [\"unix:/path\"]".to_owned();
        reader.problem(key.clone(), message, Some(help));
    }
    Some(PortUse::Socket(name))
}

fn check_name(reader: &mut Reader<'_>, span: &Range<usize>, text: &str) -> bool {
    let path = Path::new(text);
    let below = path.components().all(|part| matches!(part, Component::Normal(_)));
    let (message, help) = if path.is_absolute() {
        let quoted = reader.quote(span, text);
        (
            format!(
                "{quoted} would be one socket for all instances, and a release starts new ones beside the old"
            ),
            "socket = true, and the program listens on $SOCKET, such as: --bind unix:$SOCKET",
        )
    } else if text.is_empty() || !below || text.ends_with('/') || text.contains(char::is_control) {
        let quoted = reader.quote(span, text);
        (
            format!("{quoted} is no name of a file below the instance's own folder"),
            "a name such as \"app.sock\"; the folder is $RUNTIME_DIRECTORY, the whole path $SOCKET",
        )
    } else if text.len() > LONGEST {
        (
            format!(
                "this name has {} bytes, more than {LONGEST}: a socket's whole path may have 107",
                text.len()
            ),
            "a shorter name, such as \"app.sock\"",
        )
    } else {
        return true;
    };
    reader.problem(span.clone(), message, Some(help.to_owned()));
    false
}

//! The socket: nonsense and strangers change nothing.

use crate::instance::{GIVEN, Instance, server};
use seaworthy_runtime::model::Phase;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

#[test]
fn nonsense_on_the_socket_ends_that_connection_only() {
    let one = Instance::new(server(GIVEN, "")).launch();
    one.ready();
    for bytes in [&[0xff; 64][..], &[0, 0, 0, 2, b'{', b'}'], &[0, 0, 0, 9, 1]] {
        let mut stream =
            std::os::unix::net::UnixStream::connect(one.spec.run_dir.join("sock")).unwrap();
        stream.write_all(bytes).unwrap();
    }
    assert_eq!(one.client().status().unwrap().phase, Phase::Ready);
    assert_eq!(
        std::fs::metadata(one.spec.run_dir.join("sock")).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

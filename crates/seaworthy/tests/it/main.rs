//! End-to-end tests: the real binary, real processes, real sockets.
#![expect(clippy::unwrap_used, reason = "tests")]

mod faults;
mod kills;
mod serving;

use seaworthy_testkit::Platform;

/// A small server: answers with its environment, whatever is asked.
const SERVER: &str = r#"
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"instance": os.environ.get("INSTANCE"), "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/home")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print(*args, file=sys.stderr, flush=True)
class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
Server((os.environ.get("BIND", "127.0.0.1"), int(os.environ.get("WANT") or os.environ["PORT"])), Handler).serve_forever()
"#;

/// A site of one Python service over plain HTTP; `extra` are more keys of the service.
fn site(extra: &str) -> Platform {
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[service.web]\nrun = \"python3 server.py\"\n\
         health = {{ ready = {{ path = \"/\", every = \"200ms\", timeout = \"1s\", failures = 2, start = \"3s\" }} }}\nstop = {{ grace = \"2s\" }}\n{extra}\n[tls]\nmode = \"off\"\n"
    );
    let platform = Platform::new(env!("CARGO_BIN_EXE_seaworthy"), &manifest);
    // HTTPS is off: the free HTTPS port would be refused.
    let file = platform.project().join("seaworthy.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("https = \"127.0.0.1:0\"\n", "");
    std::fs::write(file, text).unwrap();
    platform.file("server.py", SERVER);
    platform
}

"""The guestbook's API. Plain standard library; one process among several on the same SQLite file."""
import hashlib
import hmac
import json
import os
import secrets
import signal
import sqlite3
import threading
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = os.path.join(os.environ["DATA"], "guestbook.db")
local = threading.local()
stopping = threading.Event()


def database():
    """One connection for each thread."""
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(DATABASE, timeout=10, isolation_level=None)
        local.connection.row_factory = sqlite3.Row
    return local.connection


def hashed(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def entries(after=0, newest=50):
    rows = database().execute("SELECT * FROM entries WHERE id > ? ORDER BY id DESC LIMIT ?", (after, newest))
    return [dict(row) for row in rows]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        print(f"{self.headers.get('X-Request-Id', '-')} {format % args}", flush=True)

    def answer(self, status, document, cookie=None):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()
        self.wfile.write(body)

    def user(self):
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        row = cookie and database().execute("SELECT name FROM sessions WHERE token = ?", (cookie.value,)).fetchone()
        return row["name"] if row else None

    def document(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        return document if isinstance(document, dict) else {}

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/api/health":
            database().execute("SELECT count(*) FROM entries").fetchone()
            self.answer(200, {"status": "ok", "instance": os.environ.get("INSTANCE")})
        elif path == "/api/entries":
            self.answer(200, {"user": self.user(), "entries": entries()})
        elif path == "/api/events":
            self.stream()
        else:
            self.answer(404, {"error": "not found"})

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        last = max([entry["id"] for entry in entries(newest=1)], default=0)
        self.wfile.write(b"retry: 1000\n\n: hello\n\n")
        self.wfile.flush()
        quiet = 0
        while not stopping.wait(0.5):
            fresh = entries(after=last)
            for entry in reversed(fresh):
                last = entry["id"]
                self.wfile.write(f"event: entry\ndata: {json.dumps(entry)}\n\n".encode())
            quiet = 0 if fresh else quiet + 1
            if quiet % 30 == 29:
                self.wfile.write(b": still here\n\n")
            self.wfile.flush()
        self.close_connection = True

    def do_POST(self):
        document, path = self.document(), self.path.split("?")[0]
        if path == "/api/login":
            self.login(str(document.get("name", "")).strip()[:40], str(document.get("password", "")))
        elif path == "/api/logout":
            self.answer(200, {}, "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
        elif path == "/api/entries":
            name, text = self.user(), str(document.get("text", "")).strip()[:500]
            if not name:
                self.answer(401, {"error": "log in first"})
            elif not text:
                self.answer(400, {"error": "write something"})
            else:
                added = database().execute("INSERT INTO entries (name, text) VALUES (?, ?)", (name, text))
                self.answer(201, {"id": added.lastrowid})
        else:
            self.answer(404, {"error": "not found"})

    def login(self, name, password):
        """The first log-in with a name makes the account."""
        if not name or len(password) < 4:
            return self.answer(400, {"error": "a name and a password of at least four characters"})
        salt = secrets.token_bytes(16)
        database().execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (name, salt, hashed(password, salt)))
        user = database().execute("SELECT * FROM users WHERE name = ?", (name,)).fetchone()
        if not hmac.compare_digest(user["hash"], hashed(password, user["salt"])):
            return self.answer(401, {"error": "wrong password"})
        token = secrets.token_urlsafe(24)
        database().execute("INSERT INTO sessions VALUES (?, ?, ?)", (token, name, int(time.time())))
        self.answer(200, {"user": name}, f"session={token}; Path=/; HttpOnly; Secure; SameSite=Lax")

    def do_DELETE(self):
        number = self.path.rsplit("/", 1)[-1]
        gone = database().execute("DELETE FROM entries WHERE id = ? AND name = ?", (number, self.user() or ""))
        self.answer(200 if gone.rowcount else 404, {})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)

    def stop(*_):
        stopping.set()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever(poll_interval=0.1)


main()

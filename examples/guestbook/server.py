"""The guestbook's API: HTTP/1.1 on 127.0.0.1:$PORT, SQLite in $DATA/guestbook.db, nothing but the standard library.

Several copies may run at once on one database. SIGTERM stops accepting, lets running requests end and exits 0.
"""

import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import sqlite3
import sys
import threading
import time
from contextlib import closing
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = os.path.join(os.environ["DATA"], "guestbook.db")
PORT = int(os.environ["PORT"])
COOKIE = "guestbook"
SESSION_SECONDS = 30 * 86_400
MAX_BODY = 16 * 1024
MAX_TEXT = 500
POLL_SECONDS = 0.5
PING_SECONDS = 15

stopping = threading.Event()


def connect():
    db = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    return closing(db)


def newest_entries(db):
    rows = db.execute(
        "SELECT entries.id, name, text, at FROM entries JOIN people ON people.id = person ORDER BY entries.id DESC LIMIT 100"
    )
    return [{"id": id, "name": name, "text": text, "at": at} for id, name, text, at in rows]


def scrypt(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


class Refused(Exception):
    """An answer other than success, as the client gets to see it."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one piece
    timeout = 75  # for an idle connection; longer than the proxy keeps one

    def do_GET(self):
        self.route({"/api/health": self.health, "/api/entries": self.list, "/api/events": self.events})

    def do_POST(self):
        self.route({"/api/entries": self.add, "/api/login": self.login, "/api/logout": self.logout})

    def do_DELETE(self):
        self.route({}, {"/api/entries/": self.remove})

    def route(self, exact, prefixes=None):
        path = self.path.split("?", 1)[0]
        try:
            self.body = self.read_body()
            self.check_origin()
            if path in exact:
                return exact[path]()
            for prefix, handle in (prefixes or {}).items():
                if path.startswith(prefix):
                    return handle(path[len(prefix) :])
            raise Refused(404, "There is nothing here.")
        except Refused as refused:
            self.answer(refused.status, {"error": refused.reason})
        except sqlite3.Error as error:
            self.log_error("database: %s", error)
            self.answer(503, {"error": "The database cannot be used right now."})

    def read_body(self):
        """Always read whole: what is left over would be taken for the next request."""
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise Refused(411, "Say how long the body is.")
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            raise Refused(413, "That is too much.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise Refused(400, "The body ended early.")
        return body

    def check_origin(self):
        """Other sites may not act for someone who is signed in here."""
        origin = self.headers.get("Origin")
        if self.command != "GET" and origin and origin.split("://")[-1] != self.headers.get("Host"):
            raise Refused(403, "That came from another site.")

    def fields(self, *names):
        try:
            given = json.loads(self.body)
            values = [given[name] for name in names]
        except (ValueError, KeyError, TypeError):
            raise Refused(400, f"Send JSON with {' and '.join(names)}.") from None
        if not all(isinstance(value, str) for value in values):
            raise Refused(400, f"Send {' and '.join(names)} as text.")
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            raise Refused(400, "That is not text.") from None
        return [value.strip() for value in values]

    def token(self):
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return None
        return hashlib.sha256(cookie.value.encode()).digest() if cookie else None

    def person(self, db):
        token = self.token()
        query = "SELECT people.id, name FROM sessions JOIN people ON people.id = person WHERE token = ? AND ends > ?"
        return (token and db.execute(query, (token, int(time.time()))).fetchone()) or (None, None)

    def health(self):
        with connect() as db:
            db.execute("SELECT count(*) FROM entries").fetchone()
        self.answer(200, {"status": "ok"})

    def list(self):
        with connect() as db:
            self.answer(200, {"me": self.person(db)[1], "entries": newest_entries(db)})

    def add(self):
        (text,) = self.fields("text")
        with connect() as db:
            person, name = self.person(db)
            if person is None:
                raise Refused(401, "Sign in first.")
            if not text or len(text) > MAX_TEXT:
                raise Refused(422, f"Write between 1 and {MAX_TEXT} characters.")
            at = int(time.time() * 1000)
            id = db.execute("INSERT INTO entries (person, text, at) VALUES (?, ?, ?)", (person, text, at)).lastrowid
        self.answer(201, {"id": id, "name": name, "text": text, "at": at})

    def remove(self, id):
        if not id.isascii() or not id.isdigit() or len(id) > 18:
            raise Refused(404, "There is no such entry.")
        with connect() as db:
            person, _ = self.person(db)
            if person is None:
                raise Refused(401, "Sign in first.")
            if db.execute("DELETE FROM entries WHERE id = ? AND person = ?", (int(id), person)).rowcount:
                return self.answer(204)
            if db.execute("SELECT 1 FROM entries WHERE id = ?", (int(id),)).fetchone():
                raise Refused(403, "That is somebody else's entry.")
            raise Refused(404, "There is no such entry.")

    def login(self):
        """The first sign-in with a name makes the account."""
        name, password = self.fields("name", "password")
        if not 1 <= len(name) <= 40 or not name.isprintable():
            raise Refused(422, "A name has between 1 and 40 characters.")
        if not 8 <= len(password) <= 200:
            raise Refused(422, "A password has between 8 and 200 characters.")
        salt, token, now = secrets.token_bytes(16), secrets.token_urlsafe(32), int(time.time())
        with connect() as db:
            query = "SELECT id, name, salt, hash FROM people WHERE name = ?"
            if not db.execute(query, (name,)).fetchone():
                new = (name, salt, scrypt(password, salt))
                db.execute("INSERT OR IGNORE INTO people (name, salt, hash) VALUES (?, ?, ?)", new)
            person, name, salt, expected = db.execute(query, (name,)).fetchone()
            if not hmac.compare_digest(scrypt(password, salt), expected):
                raise Refused(401, "That name is taken, and the password is another one.")
            db.execute("DELETE FROM sessions WHERE ends <= ?", (now,))
            row = (hashlib.sha256(token.encode()).digest(), person, now + SESSION_SECONDS)
            db.execute("INSERT INTO sessions (token, person, ends) VALUES (?, ?, ?)", row)
        self.answer(200, {"me": name}, cookie=f"{token}; Max-Age={SESSION_SECONDS}")

    def logout(self):
        with connect() as db:
            db.execute("DELETE FROM sessions WHERE token = ?", (self.token(),))
        self.answer(204, cookie="gone; Max-Age=0")

    def events(self):
        """Sends the entries now and whenever they change, whichever instance changed them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        sent, last = None, time.monotonic()
        try:
            with connect() as db:
                while not stopping.is_set():
                    now = json.dumps(newest_entries(db))
                    if now != sent:
                        self.push(f"event: entries\ndata: {now}\n\n")
                        sent, last = now, time.monotonic()
                    elif time.monotonic() - last > PING_SECONDS:
                        self.push(": still here\n\n")
                        last = time.monotonic()
                    stopping.wait(POLL_SECONDS)
        except OSError:
            pass  # the reader left
        except sqlite3.Error as error:
            self.log_error("database: %s", error)  # the head is sent: all that is left is to end the stream

    def push(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()

    def answer(self, status, value=None, cookie=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if cookie:
            secure = "; Secure" if self.headers.get("X-Forwarded-Proto") == "https" else ""
            self.send_header("Set-Cookie", f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Lax{secure}")
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if stopping.is_set() or self.close_connection:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        pass  # the edge writes the access log

    def log_message(self, format, *args):
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for what is running
    request_queue_size = 128

    def __init__(self, *args):
        self.open, self.lock = set(), threading.Lock()
        super().__init__(*args)

    def process_request(self, request, client_address):
        with self.lock:
            self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        with self.lock:
            self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def stop_reading(self):
        """Idle connections end at once; a request that was read is still answered."""
        with self.lock:
            for request in self.open:
                try:
                    request.shutdown(socket.SHUT_RD)
                except OSError:
                    pass


def main():
    server = Server(("127.0.0.1", PORT), Handler)

    def stop(*_):
        stopping.set()
        threading.Thread(target=server.shutdown).start()  # it waits for the loop that this handler interrupted

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"listening on 127.0.0.1:{PORT}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.stop_reading()
    server.server_close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()

"""Brings the database to the newest schema. Run once per release; running it twice changes nothing."""
import os
import sqlite3

STEPS = [
    """CREATE TABLE users (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL);
       CREATE TABLE sessions (token TEXT PRIMARY KEY, name TEXT NOT NULL, since INTEGER NOT NULL);
       CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, text TEXT NOT NULL,
                             at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')));""",
]

database = sqlite3.connect(os.path.join(os.environ["DATA"], "guestbook.db"))
database.execute("PRAGMA journal_mode = WAL")
version = database.execute("PRAGMA user_version").fetchone()[0]
for number, step in enumerate(STEPS[version:], start=version + 1):
    database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
    print(f"migrated to version {number}")
print(f"schema version {len(STEPS)}")

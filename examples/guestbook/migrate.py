"""Brings $DATA/guestbook.db to the newest schema. Runs before new code serves; running it again changes nothing.

Steps only add, so that the instances of the previous release keep working until they are replaced.
"""

import os
import sqlite3

STEPS = [
    """
    CREATE TABLE people (
        id   INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        salt BLOB NOT NULL,
        hash BLOB NOT NULL
    );
    CREATE TABLE sessions (
        token  BLOB PRIMARY KEY,                -- SHA-256 of the cookie
        person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
        ends   INTEGER NOT NULL
    );
    CREATE TABLE entries (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
        text   TEXT NOT NULL,
        at     INTEGER NOT NULL
    );
    """,
]


def main():
    path = os.path.join(os.environ["DATA"], "guestbook.db")
    db = sqlite3.connect(path, timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, step in enumerate(STEPS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
        print(f"migrated to version {number}")
    db.close()


if __name__ == "__main__":
    main()

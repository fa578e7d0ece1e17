//! Keys of what is backed up, and where to.

use super::{Key, Kind, key, planned};

/// `[database.X]`.
pub const DATABASE: &[Key] = &[
    key(
        "engine",
        Kind::Text,
        "`postgres`, `mariadb`, `mysql` or `sqlite`; by the URL's scheme where it says so",
    ),
    key("url", Kind::Text, "`\"secret:NAME\"`, or a URL such as `postgres://user@host/name`"),
    key("path", Kind::Text, "`sqlite`: the file, inside `$DATA` or the project, or absolute"),
    key(
        "databases",
        Kind::Text,
        "names with `*` or `%` for any characters: several databases of one server",
    ),
    key("backup", Kind::Table(BACKUP), "how it is backed up; `{}` for the defaults"),
    key(
        "managed",
        Kind::Switch,
        "`true`: Seaworthy runs the server itself; its URL is the secret `DATABASE_URL` (`X_DATABASE_URL` unless X is `main`, or what `url` names)",
    ),
    planned("rls"),
    planned("importance"),
];

/// `[redis.X]`.
pub const REDIS: &[Key] = &[
    key("url", Kind::Text, "`\"secret:NAME\"`, or `redis://host:port/0`"),
    key("backup", Kind::Table(BACKUP), "how it is backed up; `{}` for the defaults"),
    key(
        "managed",
        Kind::Switch,
        "`true`: Seaworthy runs the server itself; its URL is the secret `REDIS_URL` (`X_REDIS_URL` unless X is `main`, or what `url` names)",
    ),
    planned("importance"),
];

/// `[files.X]`.
pub const FILES: &[Key] = &[
    key("paths", Kind::Texts, "files and folders, inside `$DATA` or the project, or absolute"),
    key("backup", Kind::Table(BACKUP), "how they are backed up; `{}` for the defaults"),
];

/// `backup`.
pub const BACKUP: &[Key] = &[
    key("at", Kind::Text, "time of day in the site's `zone`, such as `\"02:00\"`; 02:00"),
    key("every", Kind::Duration, "instead of `at`: so long after the last one"),
    key("keep", Kind::Table(KEEP), "how many stay; `{ daily = 14, weekly = 8 }`"),
    key("to", Kind::Texts, "stores: `local` and those of `[store.X]`; `local`"),
    key(
        "drill",
        Kind::Any,
        "`\"daily\"`, `\"weekly\"`, `\"monthly\"`, a duration, `false`, or `{ every, sql }`; weekly",
    ),
    key("rpo", Kind::Duration, "how old the newest verified backup may become"),
    key("rto", Kind::Duration, "how long a restore may take; compared with what drills measure"),
    planned("cron"),
    key(
        "pitr",
        Kind::Any,
        "PostgreSQL: restore to any moment; `true`, or `{ keep, base, every }`; off",
    ),
];

/// `backup.pitr`.
pub const PITR: &[Key] = &[
    key("keep", Kind::Duration, "any moment of so long ago; 7d"),
    key("base", Kind::Duration, "so long after the last base backup comes another; 1d"),
    key("every", Kind::Duration, "how often the log is stored; 1m"),
];

/// `backup.keep`.
pub const KEEP: &[Key] = &[
    key("last", Kind::Integer, "the newest so many"),
    key("hourly", Kind::Integer, "the newest of so many hours that have one"),
    key("daily", Kind::Integer, "of so many days"),
    key("weekly", Kind::Integer, "of so many weeks"),
    key("monthly", Kind::Integer, "of so many months"),
    key("yearly", Kind::Integer, "of so many years"),
];

/// `backup.drill`.
pub const DRILL: &[Key] = &[
    key("every", Kind::Text, "`\"daily\"`, `\"weekly\"`, `\"monthly\"` or a duration; weekly"),
    key("sql", Kind::Texts, "questions to the restored copy whose first value must be true"),
];

/// `[store.X]`.
pub const STORE: &[Key] = &[
    key("url", Kind::Text, "`s3://bucket/prefix`, `sftp://user@host/path` or `file:///path`"),
    key("key", Kind::Text, "`\"secret:NAME\"`: access key (S3), private key (SFTP)"),
    key("secret", Kind::Text, "`\"secret:NAME\"`: secret key (S3)"),
    key("region", Kind::Text, "region (S3); us-east-1"),
    key("endpoint", Kind::Text, "address of another S3 provider, such as `https://s3.example.com`"),
    key(
        "host_key",
        Kind::Text,
        "the server's public key (SFTP), such as `\"ssh-ed25519 AAAA…\"`; the system's known hosts by default",
    ),
    key(
        "encrypt",
        Kind::Texts,
        "age recipients that can open the backups; a key is made at first use by default",
    ),
];

//! The schema of `state.db`, step by step, and from which build on it can be read.
//!
//! Why: after an upgrade the previous build must still be able to run, with all that was written meanwhile.
//! Invariants: a step that was released is never changed; while steps only add, [`SINCE`] stays, and an earlier
//! build opens a later state. Not here: how a step is taken.

/// The number of the first step whose tables a build has to know: builds that know it, or a later one, can use
/// this state, whatever was added since. Written into the file; grows only with a step that is no addition.
pub(super) const SINCE: u32 = 2;

/// What each version adds to the one before.
const STEPS: &[&str] = &["
    CREATE TABLE IF NOT EXISTS sites (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS instances (id TEXT PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS releases (site TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (site, number));
    CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT, record TEXT NOT NULL);
", "
    CREATE TABLE IF NOT EXISTS deployments (id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, record TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS deployments_by_site ON deployments (site, id);
    CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL, hash TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS jobs (site TEXT NOT NULL, job TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (site, job));
"];

/// A step of a build that does not exist yet: tests of the way back from it.
const OF_TESTS: &str = "
    ALTER TABLE sites ADD COLUMN later TEXT NOT NULL DEFAULT '';
    CREATE TABLE later (id INTEGER PRIMARY KEY);
";

/// All steps that this build knows. A build for tests whose program is called `…-later` knows one more.
pub(super) fn steps() -> Vec<&'static str> {
    let mut steps = STEPS.to_vec();
    let is_later = || {
        let program = std::env::current_exe().ok()?;
        Some(program.to_str()?.ends_with("-later"))
    };
    if cfg!(debug_assertions) && is_later() == Some(true) {
        steps.push(OF_TESTS);
    }
    steps
}

//! How backups look to people.
//!
//! Invariant: the word VERIFIED is printed where the backup crate says so and nowhere else; times are ages,
//! because what matters is how much would be lost.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use seaworthy_backup::{
    Drilled, ItemReport, Part, Pruned, Restored, SetReport, State, Taken, Verified,
};
use seaworthy_base::{ByteSize, Code, Fault, Timestamp, format_duration};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const UNSURE: Style = AnsiColor::Yellow.on_default();

/// Rows of cells, as wide as they must be.
#[derive(Default)]
struct Table {
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    fn row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn head(&mut self, names: &[&str]) {
        self.row(names.iter().map(|name| ((*name).to_owned(), Style::new().dimmed())));
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|(cell, _)| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut out = String::new();
        for row in &self.rows {
            for (at, (cell, style)) in row.iter().enumerate() {
                let width =
                    if at + 1 == row.len() { 0 } else { widths.get(at).copied().unwrap_or(0) + 2 };
                let pad = width.saturating_sub(cell.chars().count());
                let _infallible = write!(out, "{style}{cell}{style:#}{:pad$}", "");
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    }
}

fn plain(text: impl Into<String>) -> (String, Style) {
    (text.into(), Style::new())
}

/// A duration in its largest unit or two.
fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let unit = match seconds {
        0 => return format!("{} ms", duration.as_millis()),
        1..60 => 1,
        60..86_400 => 60,
        86_400..604_800 => 3600,
        _ => 86_400,
    };
    format_duration(Duration::from_secs(seconds / unit * unit))
}

fn age(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", rough(now.since(at)))
}

fn size(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { ByteSize(bytes).rounded().to_string() }
}

/// One line for each item.
pub(super) fn items(reports: &[ItemReport]) -> String {
    let mut table = Table::default();
    table.head(&["ITEM", "NEWEST", "VERIFIED", "DRILL", "RPO NOW", "RTO", "SIZE", "COPIES"]);
    for report in reports {
        let now = report.at;
        let newest = report.sets.first();
        let verified = report.newest_verified();
        let limited = |value: Option<u64>, limit: Option<u64>, none: &str| {
            let Some(value) = value else {
                return (none.to_owned(), if limit.is_some() { BAD } else { Style::new() });
            };
            let text = rough(Duration::from_millis(value));
            match limit {
                Some(limit) if value > limit => {
                    (format!("{text} > {}", rough(Duration::from_millis(limit))), BAD)
                }
                Some(limit) => (format!("{text} of {}", rough(Duration::from_millis(limit))), GOOD),
                None => plain(text),
            }
        };
        table.row([
            plain(&report.item),
            newest.map_or(("never".to_owned(), BAD), |set| plain(age(set.set.taken, now))),
            verified.map_or(("none".to_owned(), BAD), |set| (age(set.set.taken, now), GOOD)),
            drill_cell(report),
            limited(report.rpo_now_ms(), report.rpo_ms, "everything"),
            limited(report.rto_measured_ms(), report.rto_ms, "unknown"),
            plain(trend(&report.sets)),
            plain(newest.map_or_else(String::new, stores)),
        ]);
    }
    table.text()
}

fn drill_cell(report: &ItemReport) -> (String, Style) {
    match &report.last_drill {
        None => ("never".to_owned(), UNSURE),
        Some(drill) => match &drill.fault {
            None => (format!("passed {}", age(drill.at, report.at)), GOOD),
            Some(fault) if fault.code == Code::BackupUnverified => {
                ("could not be done".to_owned(), UNSURE)
            }
            Some(_) => (format!("FAILED {}", age(drill.at, report.at)), BAD),
        },
    }
}

/// The newest size, and how it moved.
fn trend(sets: &[SetReport]) -> String {
    let Some(newest) = sets.first() else { return String::new() };
    let text = size(newest.set.bytes());
    let Some(before) = sets.get(1) else { return text };
    let (now, then) = (newest.set.plain_bytes() as f64, before.set.plain_bytes().max(1) as f64);
    match (now / then - 1.0) * 100.0 {
        change if change.abs() < 1.0 => text,
        change => format!("{text} ({change:+.0} %)"),
    }
}

fn stores(set: &SetReport) -> String {
    set.copies.iter().map(|(store, _)| store.as_str()).collect::<Vec<_>>().join(", ")
}

/// Every backup of one item.
pub(super) fn sets(report: &ItemReport) -> String {
    let mut table = Table::default();
    table.head(&["ID", "AGE", "CONTENT", "STORED", "TOOK", "STORE", "STATE"]);
    for entry in &report.sets {
        for (at, (store, state)) in entry.copies.iter().enumerate() {
            let first = |text: String| plain(if at == 0 { text } else { String::new() });
            table.row([
                first(entry.set.id.to_string()),
                first(rough(report.at.since(entry.set.taken))),
                first(size(entry.set.plain_bytes())),
                first(size(entry.set.bytes())),
                first(rough(Duration::from_millis(entry.set.took_ms))),
                plain(store),
                state_cell(state, entry),
            ]);
        }
    }
    let mut out = table.text();
    if report.sets.is_empty() {
        out = format!("{} has no backup yet\n", report.item);
    }
    for note in report.sets.first().map(|entry| &entry.set.notes).into_iter().flatten() {
        let _infallible = writeln!(out, "note: {note}");
    }
    out
}

fn state_cell(state: &State, entry: &SetReport) -> (String, Style) {
    let drilled = match &entry.drill {
        Some(drill) if drill.fault.is_none() => ", restored in a drill",
        _ => "",
    };
    match state {
        State::Verified => (format!("VERIFIED{drilled}"), GOOD),
        State::Unverified(why) => (format!("UNVERIFIED: {why}"), UNSURE),
        State::Damaged(why) => (format!("DAMAGED: {why}"), BAD),
    }
}

/// The commands that open each file of the newest backup.
pub(super) fn how(report: &ItemReport, local: &Path) -> String {
    let Some(entry) = report.sets.first() else {
        return format!("{} has no backup yet\n", report.item);
    };
    let (set, mut out) = (&entry.set, String::new());
    let in_store = format!("{}/{}/{}", set.site, set.item, set.id);
    let folder = if entry.copies.iter().any(|(store, _)| store == "local") {
        local.join(&in_store).display().to_string()
    } else {
        in_store.clone()
    };
    let _infallible = writeln!(
        out,
        "# {} {}, needs age, zstd and KEY (the file with the owner's key; in each store below {in_store})",
        set.item, set.id
    );
    for part in &set.parts {
        let _infallible =
            writeln!(out, "age -d -i KEY {folder}/{} | zstd -d | {}", part.file, opener(part));
    }
    out
}

fn opener(part: &Part) -> String {
    match part.format.as_str() {
        "pg_dump -Fc" => format!("pg_restore --no-owner -d {}", quoted(&part.holds)),
        "sql" if part.holds == "roles" => "psql -d postgres".to_owned(),
        "sql" => "mariadb".to_owned(),
        "tar" => "tar -x".to_owned(),
        "rdb" => "cat > dump.rdb".to_owned(),
        _ => format!("cat > {}", quoted(&part.holds)),
    }
}

fn quoted(text: &str) -> String {
    let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if simple { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What `now` came to.
pub(super) fn taken(taken: &Taken) -> String {
    let set = &taken.set;
    let mut out = format!(
        "{}  {}  {} ({} stored) in {}: {}\n",
        set.item,
        set.id,
        size(set.plain_bytes()),
        size(set.bytes()),
        rough(Duration::from_millis(set.took_ms)),
        taken.stores.iter().map(|store| format!("{store} VERIFIED")).collect::<Vec<_>>().join(", "),
    );
    for doubt in &set.doubts {
        let _infallible = writeln!(out, "  UNVERIFIED until a drill: {doubt}");
    }
    for note in &set.notes {
        let _infallible = writeln!(out, "  note: {note}");
    }
    for (store, id) in &taken.removed {
        let _infallible = writeln!(out, "  removed {id} from {store}");
    }
    out
}

/// What `verify` came to.
pub(super) fn verified(verified: &Verified, faults: &mut Vec<Fault>) -> String {
    let mut table = Table::default();
    for (id, store, read, state) in &verified.copies {
        let (text, style) = match state {
            State::Verified => ("VERIFIED".to_owned(), GOOD),
            State::Unverified(why) => (format!("UNVERIFIED: {why}"), UNSURE),
            State::Damaged(why) => {
                let fault = Fault::new(
                    Code::BackupDamaged,
                    format!("backup {id} of `{}` in `{store}` is damaged", verified.item),
                )
                .because(why.clone());
                faults.push(fault.next(format!("seaworthy backup now {}", verified.item)));
                (format!("DAMAGED: {why}"), BAD)
            }
        };
        table.row([
            plain(&verified.item),
            plain(id.to_string()),
            plain(store),
            plain(if *read { "read" } else { "unchanged" }),
            (text, style),
        ]);
    }
    let mut out = table.text();
    let _infallible = writeln!(
        out,
        "{}: {} copies, {} read in {}",
        verified.item,
        verified.copies.len(),
        size(verified.read_bytes),
        rough(Duration::from_millis(verified.took_ms))
    );
    out
}

/// What `drill` came to.
pub(super) fn drilled(drilled: &Drilled) -> String {
    let drill = &drilled.drill;
    let took = rough(Duration::from_millis(drill.took_ms));
    match &drill.fault {
        None => format!(
            "{GOOD}passed{GOOD:#}  {} {} from {}: restored in {took}, {} rows compared, nothing differs\n",
            drilled.item, drill.set, drill.store, drilled.rows
        ),
        Some(fault) if fault.code == Code::BackupUnverified => format!(
            "{UNSURE}UNVERIFIED{UNSURE:#}  {} {} from {}\n",
            drilled.item, drill.set, drill.store
        ),
        Some(_) => {
            format!("{BAD}FAILED{BAD:#}  {} {} from {}\n", drilled.item, drill.set, drill.store)
        }
    }
}

/// What `prune` came to, or would.
pub(super) fn pruned(pruned: &Pruned) -> String {
    let mut table = Table::default();
    for (store, id, why) in &pruned.sets {
        let verdict = match (why.is_empty(), pruned.plan_only) {
            (true, true) => ("would go".to_owned(), UNSURE),
            (true, false) => ("removed".to_owned(), UNSURE),
            (false, _) => plain(format!("stays: {}", why.join(", "))),
        };
        table.row([plain(&pruned.item), plain(id.to_string()), plain(store), verdict]);
    }
    let count = pruned.sets.iter().filter(|(_, _, why)| why.is_empty()).count();
    let verb = if pruned.plan_only { "would go" } else { "removed" };
    format!("{}{}: {count} {verb}, {}\n", table.text(), pruned.item, size(pruned.bytes))
}

/// What `restore` came to.
pub(super) fn restored(restored: &Restored) -> String {
    let mut out = format!(
        "{}  {} from {} restored to {}: {} in {}\n",
        restored.item,
        restored.set,
        restored.store,
        restored.to,
        size(restored.bytes),
        rough(Duration::from_millis(restored.took_ms))
    );
    if let Some(before) = &restored.before {
        let _infallible = writeln!(out, "  what was there before is kept as {before}");
    }
    if let Some(safety) = &restored.safety {
        let _infallible = writeln!(out, "  and in the backup {safety}, made just before");
    }
    out
}

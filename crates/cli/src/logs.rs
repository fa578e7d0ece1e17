//! `logs`: the services' own files, merged by time. Read directly, so that it works when control is dead.
//!
//! Not here: how the files of a log, rotated ones included, become lines ([`history`]).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use regex::Regex;
use seaworthy_api::Layout;
use seaworthy_api::model::PlatformStatus;
use seaworthy_base::{Code, Exit, Fault, SiteName, Timestamp, parse_duration};

use crate::access;
use crate::args::Logs;
use crate::platform::{block_on, connect};
use crate::render::{self, Failure};

pub(crate) mod history;

/// Lines of each instance that are shown where nobody says what of them is wanted.
const TAIL: usize = 100;

/// Shows logs, and follows them when asked.
pub(crate) fn logs(layout: &Layout, options: &Logs) -> Result<Exit, Failure> {
    if options.control {
        let mut text = fs::read(layout.control_log()).unwrap_or_default();
        text.extend(crate::install::journal(layout));
        render::print(&String::from_utf8_lossy(&text));
        return Ok(Exit::Ok);
    }
    let (site, options) = &target(options);
    let (site, span) = (site.as_deref(), span(options)?);
    if options.access {
        let filter = Filter::new(options)?;
        let (since, grep) = (filter.since, filter.grep);
        let site = site.map(str::to_owned);
        let wanted = access::Wanted { site, since, grep, format: options.format };
        return access::show(layout, options.follow, &span, &wanted);
    }
    let faults = site_faults(layout, site);
    let site = match (site_of(layout, site), faults.first()) {
        (Ok(site), _) => site,
        // Nothing ever ran, and it is known why.
        (Err(_), Some(fault)) => return Err(fault.clone().into()),
        (Err(failure), None) => return Err(failure),
    };
    let filter = Filter::new(options)?;
    // From here on nothing is missed, and nothing shown twice.
    let follower = options.follow.then(|| Follower::new(layout, &site, filter.clone()));
    let until = |path: &Path| follower.as_ref().map_or(u64::MAX, |follower| follower.place(path));
    let take = |line: &str| filter.takes(line).then(|| line.to_owned());
    let sources = files(layout, &site, &filter)
        .into_iter()
        .map(|(source, path)| (source, history::lines(&path, until(&path), &span, take)));
    for (line, source) in history::merge(sources.collect()) {
        render::print(&shown(&line, &source));
    }
    faults.iter().for_each(render::warn);
    if let Some(mut follower) = follower {
        loop {
            follower.print_news();
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(Exit::Ok)
}

/// The site, and the options with what `site/service/slot` says of service and instance.
fn target(options: &Logs) -> (Option<String>, Logs) {
    let mut options = options.clone();
    let Some(given) = options.site.take() else { return (None, options) };
    let mut parts = given.splitn(3, '/').map(str::to_owned);
    let site = parts.next();
    options.service = options.service.or(parts.next());
    options.instance = options.instance.or(parts.next());
    (site, options)
}

/// What of the logs is wanted.
fn span(options: &Logs) -> Result<history::Span, Failure> {
    let ago = options.since.as_deref().map(parse_duration).transpose();
    let ago = ago.map_err(|error| wrong(&error))?;
    // Before there were clocks is as good as always.
    let since = ago.and_then(|ago| SystemTime::now().checked_sub(ago));
    let chosen = options.since.is_some() || options.grep.is_some();
    let tail = options.tail.or((!chosen).then_some(TAIL));
    Ok(history::Span { since, tail })
}

fn wrong(what: &impl ToString) -> Failure {
    Failure { fault: Fault::new(Code::ManifestInvalid, what.to_string()), exit: Exit::Usage }
}

/// What keeps a site from being what its folder says, from control; nothing when that is away. What is wrong
/// with an instance stands in its log already.
fn site_faults(layout: &Layout, site: Option<&str>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let ask = async {
        let status: PlatformStatus = connect(layout).await?.get("/v1/status").await?;
        let sites = status.sites.into_iter();
        faults = sites
            .filter(|one| site.is_none_or(|site| site == one.name))
            .flat_map(|one| one.faults)
            .collect();
        Ok(Exit::Ok)
    };
    // Logs are read without control, so that its failure is none here.
    block_on(ask).ok();
    faults
}

fn site_of(layout: &Layout, given: Option<&str>) -> Result<SiteName, Failure> {
    let known: Vec<SiteName> = fs::read_dir(layout.state.join("logs"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|name: &SiteName| name.as_str() != "edge")
        .collect();
    let names = || known.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ");
    match (given, &known[..]) {
        (Some(given), _) => {
            known.iter().find(|name| name.as_str() == given).cloned().ok_or_else(|| {
                Fault::new(Code::NoSuchSite, format!("no site `{given}` has logs"))
                    .because(format!("there are: {}", names()))
                    .into()
            })
        }
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Fault::new(Code::NoSuchSite, "no site has logs yet")
            .next("seaworthy up DIR")
            .into()),
        (None, _) => Err(Fault::new(Code::NoSuchSite, "several sites have logs: say which")
            .because(names())
            .next("seaworthy logs SITE")
            .into()),
    }
}

/// Which lines are wanted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filter {
    service: Option<String>,
    instance: Option<String>,
    since: Option<String>,
    grep: Option<Regex>,
}

impl Filter {
    fn new(options: &Logs) -> Result<Self, Failure> {
        let since = options
            .since
            .as_deref()
            .map(parse_duration)
            .transpose()
            .map_err(|error| wrong(&error))?;
        let since = since.map(|ago| {
            Timestamp(Timestamp::now().0.saturating_sub(ago.as_millis() as u64)).to_string()
        });
        let grep =
            options.grep.as_deref().map(Regex::new).transpose().map_err(|error| wrong(&error))?;
        let instance = options
            .instance
            .as_deref()
            .map(|name| name.rsplit('/').next().unwrap_or(name).replace('@', "."));
        Ok(Self { service: options.service.clone(), instance, since, grep })
    }

    /// Lines begin with an RFC 3339 time, so that times compare as texts.
    fn takes(&self, line: &str) -> bool {
        self.since
            .as_ref()
            .is_none_or(|since| line.get(..24).is_some_and(|time| time >= since.as_str()))
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(line))
    }

    /// `service.slot.generation.log`
    fn takes_file(&self, name: &str) -> Option<String> {
        let stem = name.strip_suffix(".log")?;
        let (service, instance) = stem.split_once('.')?;
        let slot = instance.split('.').next();
        let fits = self.service.as_deref().is_none_or(|wanted| wanted == service)
            && self
                .instance
                .as_deref()
                .is_none_or(|wanted| wanted == instance || Some(wanted) == slot);
        fits.then(|| format!("{service}/{}", slot.unwrap_or_default()))
    }
}

fn files(layout: &Layout, site: &SiteName, filter: &Filter) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(layout.site_logs(site)).into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| Some((filter.takes_file(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort();
    found
}

/// By time only: lines of one moment stay as they stand in their file.
fn in_order(lines: &mut [(String, String)]) {
    let time = |line: &str| line.get(..24).unwrap_or(line).to_owned();
    lines.sort_by_cached_key(|(line, _)| time(line));
}

/// `time service/slot stream text`
fn shown(line: &str, source: &str) -> String {
    let (time, rest) = line.split_once(' ').unwrap_or(("", line));
    format!("{time} {source:<12} {rest}\n")
}

/// Prints what is added to a site's logs.
#[derive(Debug)]
pub(crate) struct Follower {
    layout: Layout,
    site: SiteName,
    filter: Filter,
    places: BTreeMap<PathBuf, u64>,
}

impl Follower {
    fn new(layout: &Layout, site: &SiteName, filter: Filter) -> Self {
        let mut follower =
            Self { layout: layout.clone(), site: site.clone(), filter, places: BTreeMap::new() };
        follower.skip_what_is_there();
        follower
    }

    /// Everything of a site that is written from now on.
    pub(crate) fn from_now(layout: &Layout, site: &SiteName) -> Self {
        Self::new(layout, site, Filter::default())
    }

    /// Where in a file it begins.
    fn place(&self, path: &Path) -> u64 {
        self.places.get(path).copied().unwrap_or(0)
    }

    fn skip_what_is_there(&mut self) {
        for (_, path) in files(&self.layout, &self.site, &self.filter) {
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            self.places.insert(path, size);
        }
    }

    /// Prints the whole lines that came since the last call.
    pub(crate) fn print_news(&mut self) {
        let mut lines = Vec::new();
        for (source, path) in files(&self.layout, &self.site, &self.filter) {
            let from = self.place(&path);
            if let Some((text, to)) = read_from(&path, from) {
                lines.extend(
                    text.lines()
                        .filter(|line| self.filter.takes(line))
                        .map(|line| (line.to_owned(), source.clone())),
                );
                self.places.insert(path, to);
            }
        }
        in_order(&mut lines);
        lines.iter().for_each(|(line, source)| render::print(&shown(line, source)));
    }
}

/// Whole lines from a place on, and where they end. A file that became shorter was rotated.
fn read_from(path: &Path, from: u64) -> Option<(String, u64)> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let from = if size < from { 0 } else { from };
    if size == from {
        return None;
    }
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(4 << 20).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n')? + 1;
    bytes.truncate(end);
    Some((String::from_utf8_lossy(&bytes).into_owned(), from + end as u64))
}

//! The flags of the fake application.
//!
//! By hand: a parser crate would be larger than the application. An unknown flag is an error, so that
//! a misspelt fault can never make a test pass.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// How the application is to behave.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "each field is the flag of the same name; the table stands in `parse`"
)]
pub struct Options {
    pub slow_start: Duration,
    pub think: Duration,
    pub crash_loop: Option<Duration>,
    pub exit_code: u8,
    pub never_listen: bool,
    pub ignore_term: bool,
    pub grandchildren: usize,
    pub orphan: bool,
    pub leak: bool,
    pub leak_cap: usize,
    pub bind: IpAddr,
    pub port: u16,
    pub socket: Option<PathBuf>,
    pub require_env: Vec<String>,
    pub keep_alive: Duration,
    pub health_status: u16,
    pub health_json: String,
    pub one_stream: bool,
    pub broken_after: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slow_start: Duration::ZERO,
            think: Duration::ZERO,
            crash_loop: None,
            exit_code: 1,
            never_listen: false,
            ignore_term: false,
            grandchildren: 0,
            orphan: false,
            leak: false,
            leak_cap: 768 << 20,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            socket: None,
            require_env: Vec::new(),
            keep_alive: Duration::from_secs(5),
            health_status: 200,
            health_json: r#"{"status":"ok"}"#.to_owned(),
            one_stream: false,
            broken_after: None,
        }
    }
}

impl Options {
    /// Reads flags; `$PORT` is the port unless `--port` says otherwise. The error names the flag.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut port = None;
        let mut arguments = arguments;
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("`{flag}` needs a value"));
            match flag.as_str() {
                "--think" => options.think = duration(&value()?)?,
                "--slow-start" => options.slow_start = duration(&value()?)?,
                "--crash-loop" => options.crash_loop = Some(options.crash_loop.unwrap_or_default()),
                "--crash-after" => options.crash_loop = Some(duration(&value()?)?),
                "--exit-code" => options.exit_code = number(&value()?)?,
                "--never-listen" => options.never_listen = true,
                "--ignore-term" => options.ignore_term = true,
                "--grandchildren" => options.grandchildren = number(&value()?)?,
                "--orphan" => options.orphan = true,
                "--leak" => options.leak = true,
                "--leak-cap-mib" => options.leak_cap = number::<usize>(&value()?)? << 20,
                "--bind" => options.bind = address(&value()?)?,
                "--socket" => options.socket = Some(PathBuf::from(value()?)),
                "--port" => port = Some(number(&value()?)?),
                "--require-env" => options.require_env.push(value()?),
                "--keep-alive" => options.keep_alive = duration(&value()?)?,
                "--health-status" => options.health_status = number(&value()?)?,
                "--broken-after" => options.broken_after = Some(number(&value()?)?),
                "--one-stream" => options.one_stream = true,
                "--health-json" => options.health_json = value()?,
                _ => return Err(format!("there is no flag `{flag}`")),
            }
        }
        let given = std::env::var("PORT").ok().and_then(|text| text.parse().ok());
        options.port = port.or(given).unwrap_or(0);
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number in range"))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_err(|_| format!("`{text}` is not an address"))
}

/// `250ms` or `2s`.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    match unit {
        "ms" => Ok(Duration::from_millis(number(digits)?)),
        "s" => Ok(Duration::from_secs(number(digits)?)),
        _ => Err(format!("`{text}` is not a duration such as `250ms` or `2s`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_in_any_order() {
        let options = parse(
            "--ignore-term --slow-start 250ms --bind [::] --port 9 --require-env A --require-env B",
        )
        .unwrap();
        assert!(options.ignore_term);
        assert_eq!((options.slow_start, options.port), (Duration::from_millis(250), 9));
        assert_eq!(options.bind.to_string(), "::");
        assert_eq!(options.require_env, ["A", "B"]);
    }

    #[test]
    fn a_misspelt_flag_is_refused() {
        assert!(parse("--never-lisen").unwrap_err().contains("--never-lisen"));
        assert!(parse("--slow-start 2").unwrap_err().contains("not a duration"));
        assert!(parse("--port").unwrap_err().contains("needs a value"));
    }
}

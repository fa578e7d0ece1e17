//! Replaces what differs from run to run, so that the rest of an output can be compared exactly.
//!
//! `[PATH]` the sandbox's folder (what follows stays), `[TIME]` `[DIGEST]` `[VERSION]` `[PORT]` `[PID]`
//! `[DURATION]` `[SIZE]` `[COUNT]`. Invariants: the order is fixed (a time holds digits that look like a port); text that
//! is the same in every run is never touched, exit codes and code numbers among it.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?", "[TIME]"),
        (r"\b(r\d+-)[0-9a-f]{8}\b", "${1}[DIGEST]"),
        (r"\b(?:sha256:)?[0-9a-f]{32,64}\b", "[DIGEST]"),
        (r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "[REQUEST]"),
        (r"(127\.0\.0\.1|0\.0\.0\.0|\[::1?\]|localhost):\d{1,5}\b", "${1}:[PORT]"),
        (r"(?i)\b(port)([ =:]+)\d{1,5}\b", "${1}${2}[PORT]"),
        (r"(instead of|the wrong port:) \d{1,5}\b", "${1} [PORT]"),
        (r"(?i)\b(pid|ps -fp|grandchild)([ =:]+)\d+\b", "${1}${2}[PID]"),
        (r"\b(process) \d+\b", "${1} [PID]"),
        (r"\b\d+ connections, \d+ requests\b", "[COUNT] connections, [COUNT] requests"),
        (r"  \d+(?:\.\d+)?[KMG](?:iB|B)?\b", "  [SIZE]"),
        (r"\b\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.]+)\b", "[VERSION]"),
        (r"(?i)\b(seaworthy|control|edge) v?\d+\.\d+\.\d+\b", "${1} [VERSION]"),
        (r"\b\d+(?:\.\d+)? ?(?:ms|µs|s|min|m|h|d)\b(?: \d+ ?(?:ms|s|min|m|h)\b)*", "[DURATION]"),
        (r"\b\d+(?:\.\d+)? ?(?:seconds?|minutes?|hours?|days?)\b", "[DURATION]"),
    ];
    rules
        .map(|(pattern, with)| (Regex::new(pattern).expect("a filter is a valid pattern"), with))
        .into()
});

/// The text with everything that differs replaced; `folder` is the sandbox's.
pub fn apply(text: &str, folder: &Path) -> String {
    let plain = text.replace(&folder.display().to_string(), "[PATH]");
    RULES.iter().fold(plain, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_replaced_and_nothing_else() {
        let cases = [
            ("2026-11-21T03:57:51.123Z up", "[TIME] up"),
            ("release r42-0a1b2c3d", "release r42-[DIGEST]"),
            ("listens on 127.0.0.1:34567, [::1]:80", "listens on 127.0.0.1:[PORT], [::1]:[PORT]"),
            (
                "wrong port: 9 instead of 40001 (PORT=40001)",
                "wrong port: [PORT] instead of [PORT] (PORT=[PORT])",
            ),
            ("control (pid 4242)", "control (pid [PID])"),
            (
                "ended with code 3 after 12 ms (SW-RUN-003)",
                "ended with code 3 after [DURATION] (SW-RUN-003)",
            ),
            ("up 1h, 2 of 3 ready", "up [DURATION], 2 of 3 ready"),
            ("in /tmp/sw-abc/p/shop/seaworthy.toml:3:1", "in [PATH]/p/shop/seaworthy.toml:3:1"),
            ("seaworthy 0.1.0+f0acdcb", "seaworthy [VERSION]"),
        ];
        for (before, after) in cases {
            assert_eq!(apply(before, Path::new("/tmp/sw-abc")), after);
        }
    }
}

//! How much of a machine's memory a server takes: pure arithmetic, and the one look that it needs.
//!
//! Invariant: a server shares the machine with the application and with the page cache, so that its own caches
//! are an eighth to a quarter, never less than it needs to work at all.

/// One mebibyte.
pub(super) const MIB: u64 = 1 << 20;
/// What is assumed where the kernel does not say.
const UNKNOWN: u64 = 1 << 30;

/// Memory in bytes that this machine, or the container around us, has.
pub(super) fn of_machine() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let total = total.map_or(UNKNOWN, |kib| kib << 10);
    let places = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = places.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    limits.filter_map(|text| text.trim().parse::<u64>().ok()).fold(total, u64::min)
}

/// A share in whole mebibytes, between two bounds.
pub(super) fn share(total: u64, divisor: u64, least: u64, most: u64) -> u64 {
    (total / divisor / MIB).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_with_the_machine_and_stays_within_its_bounds() {
        assert_eq!(share(256 * MIB, 8, 64, 8192), 64);
        assert_eq!(share(16 << 30, 8, 64, 8192), 2048);
        assert_eq!(share(1 << 40, 8, 64, 8192), 8192);
        assert!(of_machine() > 64 * MIB);
    }
}

//! What `/proc` tells: trees of processes, their memory, where they listen.
//!
//! Invariant: everything here may vanish while it is read; what vanished is left out, never an error.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;

/// A listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Where.
    pub address: SocketAddr,
    /// Its inode, by which a process's descriptors name it.
    pub inode: u64,
    /// The user that made it.
    pub uid: u32,
}

/// All listening TCP sockets of this network namespace.
pub fn listening_sockets() -> Vec<ListeningSocket> {
    let mut all = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(parse_line));
    }
    all
}

/// One line of `/proc/net/tcp`: the address is hexadecimal, each 32-bit word in host order.
fn parse_line(line: &str) -> Option<ListeningSocket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state) = (*fields.get(1)?, *fields.get(3)?);
    if state != "0A" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for word in 0..address.len() / 8 {
        let word = u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(ListeningSocket {
        address: SocketAddr::new(ip, port),
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Every process id there is.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process that has a socket open; the first one found.
pub fn owner_of(inode: u64) -> Option<u32> {
    pids().find(|pid| socket_inodes(*pid).contains(&inode))
}

fn socket_inodes(pid: u32) -> HashSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(inode).collect()
}

/// The name of a process's program.
pub fn program_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// Children of each process, and their children, without `root` itself.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for pid in pids() {
        if let Some(parent) = parent_of(pid) {
            parents.push((pid, parent));
        }
    }
    let (mut found, mut at) = (vec![root], 0);
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    found
}

/// Whether a process has ended and only waits for its parent, or is gone altogether.
pub fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Whether a process stands below another one in the tree, at any depth.
pub fn is_descendant(pid: u32, root: u32) -> bool {
    ancestors(pid).any(|parent| parent == root)
}

/// Whether a process runs our program or was started by one that does.
pub fn is_ours(pid: u32) -> bool {
    let program = |pid: u32| {
        let meta = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let own = program(std::process::id());
    own.is_some() && std::iter::once(pid).chain(ancestors(pid)).any(|pid| program(pid) == own)
}

/// Parent, its parent, and so on. Bounded: what is read one by one may have moved meanwhile.
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent_of(pid), |pid| parent_of(*pid))
        .take_while(|pid| *pid != 0)
        .take(64)
}

/// The paths of a process's control groups, one of each hierarchy.
pub fn cgroups_of(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = |line: &str| Some(line.splitn(3, ':').nth(2)?.to_owned());
    text.lines().filter_map(path).collect()
}

/// Field 4 of `/proc/PID/stat`; the name before it may hold spaces and brackets.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Resident bytes and CPU milliseconds of some processes, together.
pub fn usage(pids: &[u32]) -> (u64, u64) {
    let page = rustix::param::page_size() as u64;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let mut total = (0, 0);
    for pid in pids {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let mut fields =
            statm.split_whitespace().skip(1).filter_map(|field| field.parse::<u64>().ok());
        // Resident less shared: libraries that many processes map are counted for none.
        let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        total.0 += resident.saturating_sub(shared) * page;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let cpu: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        total.1 += cpu * 1000 / ticks;
    }
    total
}

/// Where the given processes listen.
pub fn listening(pids: &[u32]) -> Vec<SocketAddr> {
    let sockets = listening_sockets();
    if sockets.is_empty() {
        return Vec::new();
    }
    let inodes: HashSet<u64> = pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
    let mut found: Vec<SocketAddr> = sockets
        .into_iter()
        .filter(|one| inodes.contains(&one.inode))
        .map(|one| one.address)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listeners_and_children_are_seen() {
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening(&[std::process::id()]).contains(&v4.local_addr().unwrap()));
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn lines_of_the_kernel_are_read_and_garbage_is_left_out() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 x";
        let socket = parse_line(line).unwrap();
        assert_eq!(
            (socket.address, socket.inode, socket.uid),
            ("127.0.0.1:8080".parse().unwrap(), 4242, 1000)
        );
        assert!(parse_line("").is_none() && parse_line("0: zz:1 x 0A").is_none());
    }
}

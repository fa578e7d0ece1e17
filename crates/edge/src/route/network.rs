//! A network in CIDR notation, such as `10.0.0.0/8`, `fd00::/8` or one address.
//!
//! Invariant: an IPv4 address that arrives mapped into IPv6 (`::ffff:10.0.0.1`, as dual-stack sockets
//! report it) is the IPv4 address.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// Why a text is no network.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{given}` is no network: write it like `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`")]
pub struct NetworkError {
    /// As given, cut to 60 characters.
    pub given: String,
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address, left-aligned in 128 bits, bits after the prefix cleared.
    bits: u128,
    v4: bool,
    prefix: u8,
}

fn aligned(ip: IpAddr) -> (u128, bool) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, true),
        IpAddr::V6(ip) => (ip.to_bits(), false),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (bits, v4) = aligned(ip);
        v4 == self.v4 && bits & mask(self.prefix) == self.bits
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError { given: text.chars().take(60).collect() };
        let (address, prefix) = text
            .trim()
            .split_once('/')
            .map_or((text.trim(), None), |(address, prefix)| (address, Some(prefix)));
        let ip: IpAddr = address.parse().map_err(|_| bad())?;
        let (bits, v4) = aligned(ip);
        // `::ffff:10.0.0.0/104` is `10.0.0.0/8` seen through a dual-stack socket.
        let mapped = if v4 && ip.is_ipv6() { 96 } else { 0 };
        let longest: u8 = if v4 { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse::<u8>()
                .ok()
                .and_then(|prefix| prefix.checked_sub(mapped))
                .ok_or_else(bad)?,
            Some(_) => return Err(bad()),
        };
        if prefix > longest {
            Err(bad())
        } else {
            Ok(Self { bits: bits & mask(prefix), v4, prefix })
        }
    }
}

//! Free ports for the parts.

use std::net::{Ipv4Addr, TcpListener};

use uuid::Uuid;

/// Below the range from which systems take the near end of outgoing connections, so that a part that is down for
/// a moment finds its port free when it comes back.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port on the loopback that is free now. Another process may still take it first: starters try again.
pub(super) fn free_port() -> std::io::Result<u16> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..1000 {
        let random = Uuid::now_v7().as_u128() % u128::from(RANGE.end - RANGE.start);
        let port = RANGE.start + u16::try_from(random).unwrap_or_default();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

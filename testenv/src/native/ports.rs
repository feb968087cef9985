//! Free ports of the parts.

use std::net::{Ipv4Addr, TcpListener};

use uuid::Uuid;

/// Below the range of ephemeral ports, so that a part that restarts finds its port free.
const PORT_RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns a free port on the loopback. Another process may still take it first, so starts are retried.
pub(super) fn free_port() -> std::io::Result<u16> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..1000 {
        let random = Uuid::now_v7().as_u128() % u128::from(PORT_RANGE.end - PORT_RANGE.start);
        let port = PORT_RANGE.start + u16::try_from(random).unwrap_or_default();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

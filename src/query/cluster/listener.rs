//! Addresses: where the processes of a cluster listen, and how they are named.
//!
//! Knows sockets. Knows nothing of what is said on them.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::host_and_port;
use crate::error::{Error, Kind, Result};

/// Opens a port. One that others than this machine can reach is warned of: whoever reaches it can have plans computed that
/// read what its process may read.
///
/// # Errors
/// `Kind::Config` where the address cannot be listened on.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address can read what this process can: keep it inside a private network");
    }
    TcpListener::bind(address).await.map_err(|e| {
        Error::new(Kind::Config, "cannot listen on this address")
            .with("address", address)
            .source(e)
            .hint("another process may listen there: name another port with --bind, or 0 for any that is free")
    })
}

/// Where a listener listens.
///
/// # Errors
/// `Kind::Temporary` where the system does not tell.
pub fn address_of(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::new(Kind::Temporary, "a port was closed at once").source(e))
}

/// The scheduler's URL as connections need it.
///
/// # Errors
/// `Kind::Config` for what is no `df://host:port`.
pub fn url_of(scheduler: &str) -> Result<String> {
    match host_and_port(scheduler) {
        Some(place) => Ok(format!("http://{place}")),
        None => Err(Error::new(Kind::Config, "not the address of a scheduler")
            .with("address", scheduler)
            .hint("write it as df://host:50050")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_scheduler_is_named_by_host_and_port() {
        assert_eq!(url_of("df://host:50050").unwrap(), "http://host:50050");
        assert_eq!(url_of("df://[::1]:1").unwrap(), "http://[::1]:1");
        for bad in
            ["", "host:50050", "http://host:50050", "df://host", "df://:50050", "df://host/x:1", "df://host:99999"]
        {
            assert_eq!(url_of(bad).unwrap_err().kind(), Kind::Config, "{bad}");
        }
    }
}

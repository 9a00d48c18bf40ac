//! What the configuration asks of the host: names and local addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use nix::net::if_::InterfaceFlags;

/// The host as the configuration sees it. Tests give their own.
pub trait Host {
    /// All addresses of a host name, in the order of the resolver.
    ///
    /// # Errors
    /// The resolver's reason, as text.
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String>;

    /// The addresses of this host: of all interfaces, loopback included, and of its own name.
    ///
    /// # Errors
    /// The system's reason.
    fn addresses(&self) -> io::Result<Vec<IpAddr>>;

    /// The broadcast addresses of the networks this host is in.
    ///
    /// # Errors
    /// The system's reason.
    fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>>;
}

/// The real host.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost;

impl Host for SystemHost {
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let mut found: Vec<IpAddr> = Vec::new();
        for addr in (name, 0).to_socket_addrs().map_err(|e| e.to_string())? {
            if !found.contains(&addr.ip()) {
                found.push(addr.ip());
            }
        }
        Ok(found)
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut found: Vec<IpAddr> = Vec::new();
        for interface in nix::ifaddrs::getifaddrs()? {
            let Some(storage) = interface.address else { continue };
            if let Some(v4) = storage.as_sockaddr_in() {
                found.push(v4.ip().into());
            } else if let Some(v6) = storage.as_sockaddr_in6() {
                found.push(v6.ip().into());
            }
        }
        // The own name may resolve to an address that no interface has; the original counts it as local.
        // A host whose name does not resolve is a normal case.
        if let Ok(name) = nix::unistd::gethostname()
            && let Some(name) = name.to_str()
            && let Ok(more) = self.lookup(name)
        {
            found.extend(more);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut found = vec![IpAddr::V4(Ipv4Addr::BROADCAST)];
        for interface in nix::ifaddrs::getifaddrs()? {
            if interface.flags.contains(InterfaceFlags::IFF_BROADCAST)
                && let Some(storage) = interface.broadcast
                && let Some(v4) = storage.as_sockaddr_in()
            {
                found.push(v4.ip().into());
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_local() {
        let found = SystemHost.addresses().expect("addresses");
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }

    #[test]
    fn the_limited_broadcast_address_is_always_one() {
        let found = SystemHost.broadcast_addresses().expect("addresses");
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::BROADCAST)), "{found:?}");
    }

    #[test]
    fn addresses_resolve_to_themselves() {
        assert_eq!(SystemHost.lookup("127.0.0.7"), Ok(vec![IpAddr::from([127, 0, 0, 7])]));
        assert!(SystemHost.lookup("no such host.invalid").is_err());
    }
}

//! From `spread.conf` to what the daemon, its ring and its sessions need.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::access::{self, AccessFileError};
use crate::config::{ClientOptions, Config, Host, SystemHost, Use};
use crate::daemon::{Member, Options, RingOptions};
use crate::ring_driver::{interface_mtu, packet_len_max};
use crate::session::{SlowRules, TlsOptions};

/// MTU of a ring unless the interface of the daemon has a smaller one. Larger ones are not used by
/// themselves: all hosts and switches of a ring would have to have them.
const MTU: usize = 1500;

/// Why the options cannot be made from a configuration that was read without an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// There is no daemon of this number.
    #[error("the configuration has no daemon number {0}")]
    UnknownDaemon(u16),
    /// The access rules cannot be read.
    #[error(transparent)]
    Access(#[from] AccessFileError),
}

impl Options {
    /// The options of the daemon with number `me` of a configuration.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn from_config(config: &Config, me: u16) -> Result<Self, ClusterError> {
        let Some((daemon, segment, _)) = config.daemon(me) else {
            return Err(ClusterError::UnknownDaemon(me));
        };
        let mut options = Self::alone(daemon.name, segment.port);
        options.daemons = config
            .daemons()
            .map(|daemon| Member { name: daemon.name, id: daemon.virtual_id.cast_signed() })
            .collect();
        options.me = me;
        options.metrics = config.options.metrics_address;
        if let Some(addrs) = daemon.listens_on(Use::CLIENT) {
            let addrs: Vec<IpAddr> = addrs.map(|addr| addr.ip).collect();
            // A stanza without an entry for clients: no TCP. With the wildcard: everywhere.
            options.serve_tcp = !addrs.is_empty();
            if !addrs.iter().any(IpAddr::is_unspecified) {
                options.listen = addrs;
            }
        } else if shares_port(config, me, &SystemHost) {
            // Two daemons of one host on one port: each takes its own address only.
            options.listen = vec![daemon.address.ip];
        }
        if let Some(messages) = config.options.max_session_messages {
            options.limits.session_messages_max = usize::try_from(messages).unwrap_or(usize::MAX);
        }
        clients(&config.options.clients, &mut options);
        (options.auth, options.policy) = access::load(config)?;
        options.ring = Some(ring(config, me));
        options.config = Some(Arc::new(config.clone()));
        Ok(options)
    }
}

/// Our own words about clients.
fn clients(words: &ClientOptions, options: &mut Options) {
    let limits = &mut options.limits;
    limits.sessions_max = words.sessions_max.unwrap_or(limits.sessions_max);
    limits.session_bytes_max = words.session_bytes_max;
    limits.spill_bytes_max = words.spill_bytes_max.unwrap_or(limits.spill_bytes_max);
    options.spill_dir.clone_from(&words.spill_dir);
    // Checked: with a port there are both files.
    if let (Some(port), Some(certificate), Some(key)) =
        (words.tls_port, &words.tls_certificate, &words.tls_key)
    {
        options.tls = Some(TlsOptions {
            port,
            listen: words.tls_addresses.clone().map(|mut addrs| {
                if addrs.iter().any(IpAddr::is_unspecified) {
                    addrs.clear();
                }
                addrs
            }),
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: words.tls_client_ca.clone(),
            client_required: words.tls_client_required.unwrap_or(false),
        });
    }
    let groups = words.slow_groups.iter().map(|(pattern, action)| (pattern.as_str(), *action));
    options.slow = SlowRules::new(words.slow_client.unwrap_or_default(), groups);
}

/// Whether another configured daemon uses the same port on an address of this host, as in test set-ups.
fn shares_port(config: &Config, me: u16, host: &dyn Host) -> bool {
    let addrs: Vec<SocketAddr> = config.socket_addrs().collect();
    let Some(own) = addrs.get(usize::from(me)) else { return false };
    // Not known: then nobody else is here.
    let local = config.local_entries(host).unwrap_or_default();
    (0u16..).zip(&addrs).any(|(node, addr)| {
        let here = local.contains(&node) || (own.ip().is_loopback() && addr.ip().is_loopback());
        node != me && addr.port() == own.port() && here
    })
}

fn ring(config: &Config, me: u16) -> RingOptions {
    let network = config.network(me, &SystemHost);
    let mut ring = config.ring_config(me);
    if let Some(own) = network.nodes.get(usize::from(me)).and_then(|node| node.addrs.first()) {
        ring.packet_len_max = packet_len_max(interface_mtu(*own).unwrap_or(MTU).min(MTU), *own);
    }
    let variants = Arc::new(config.variants());
    RingOptions { variants, ..RingOptions::new(ring, network) }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config;

    /// A host with two addresses.
    struct TwoAddresses;

    impl Host for TwoAddresses {
        fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
            Err(format!("{name} is not known"))
        }

        fn addresses(&self) -> io::Result<Vec<IpAddr>> {
            Ok(vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])])
        }

        fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>> {
            Ok(vec![IpAddr::from([192, 0, 2, 255])])
        }
    }

    fn parse(text: &str) -> Config {
        config::parse("test.conf", text.as_bytes(), &TwoAddresses).unwrap()
    }

    #[test]
    fn daemons_that_share_a_host_and_a_port_are_told_from_others() {
        let config = parse("Spread_Segment 192.0.2.255:4803 { a 192.0.2.1 b 192.0.2.2 c 192.0.2.3 }");
        assert!(shares_port(&config, 0, &TwoAddresses));
        let config = parse("Spread_Segment 192.0.2.255:4803 { a 192.0.2.1 c 192.0.2.3 }");
        assert!(!shares_port(&config, 0, &TwoAddresses));
        let config = parse(
            "Spread_Segment 192.0.2.255:4803 { a 192.0.2.1 }\nSpread_Segment 192.0.2.255:4805 { b 192.0.2.2 }",
        );
        assert!(!shares_port(&config, 0, &TwoAddresses));
    }

    #[test]
    fn clients_are_served_where_the_stanza_says() {
        let config = parse(
            "Spread_Segment 192.0.2.255:4803 { a 192.0.2.1 { D 192.0.2.1 C 192.0.2.2 } b 192.0.2.3 }\n\
             MaxSessionMessages = 77",
        );
        let options = Options::from_config(&config, 0).unwrap();
        assert_eq!(options.listen, [IpAddr::from([192, 0, 2, 2])]);
        assert!(options.serve_tcp);
        assert_eq!(options.limits.session_messages_max, 77);
        assert_eq!(options.daemons.len(), 2);
        assert!(options.ring.is_some());

        let config = parse("Spread_Segment 192.0.2.255:4803 { a 192.0.2.1 { D 192.0.2.1 } }");
        let options = Options::from_config(&config, 0).unwrap();
        assert!(!options.serve_tcp, "no address for clients");
        assert!(options.ring.is_some(), "the monitor asks by its socket, and others may come");
        assert!(matches!(Options::from_config(&config, 1), Err(ClusterError::UnknownDaemon(1))));
    }
}

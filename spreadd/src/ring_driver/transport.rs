//! Where packets go: nodes and segments to socket addresses.
//!
//! One multicast reaches the own segment if it has a multicast (or broadcast) address; daemons of other
//! segments get one copy each. spec: ring-protocol 4.10 (relays are a later step)

use std::net::{IpAddr, SocketAddr};

use socket2::SockAddr;
use spread_ring::{Class, NodeId, NodeSet};

/// The network as the configuration describes it. Equal on all daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The daemons by node number.
    pub nodes: Vec<NodeAddr>,
    /// The segments by index.
    pub segments: Vec<SegmentAddr>,
}

/// How a daemon is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddr {
    /// Its segment, an index into [`Network::segments`].
    pub segment: u16,
    /// Addresses of the daemon; packets go to the first and may come from each. Not empty.
    pub addrs: Vec<IpAddr>,
    /// Data port P; tokens use P + 1.
    pub port: u16,
}

/// A set of daemons that reach each other without a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentAddr {
    /// Multicast or broadcast address and port, if the segment has one.
    pub multicast: Option<SocketAddr>,
}

/// What is wrong with a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// `me` is not the number of a configured daemon.
    #[error("{0} is not the number of a configured daemon")]
    UnknownNode(NodeId),
    /// A daemon without an address, or in a segment that does not exist.
    #[error("daemon {0} has no address or no segment")]
    Incomplete(NodeId),
    /// The port must leave room for the token port.
    #[error("daemon {0} has port {1}; 1 to 65534 are possible")]
    Port(NodeId, u16),
    /// Two daemons with the same address and port.
    #[error("daemons {0} and {1} have the same address")]
    SameAddress(NodeId, NodeId),
    /// The daemon has no address of the family this daemon sends with.
    #[error("daemon {0} has no address of the same IP version as this daemon")]
    Family(NodeId),
}

/// Index of a destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dest(u16);

/// Source and destination addresses, resolved once.
pub(super) struct Transport {
    /// Data and token address of each node, then the multicast address of the own segment.
    addrs: Vec<SockAddr>,
    multicast: Option<Dest>,
    /// Nodes that the multicast address reaches.
    segment: NodeSet,
    /// Sorted: all addresses that packets may come from.
    sources: Vec<(SocketAddr, NodeId)>,
}

impl Transport {
    /// Checks the network and resolves it for the daemon `me`.
    pub(super) fn new(network: &Network, me: NodeId) -> Result<Self, NetworkError> {
        let own = network.nodes.get(me.index()).ok_or(NetworkError::UnknownNode(me))?;
        let own_ip = own.addrs.first().ok_or(NetworkError::Incomplete(me))?;
        let segment_addr =
            network.segments.get(usize::from(own.segment)).ok_or(NetworkError::Incomplete(me))?;
        let mut addrs = Vec::new();
        let mut sources = Vec::new();
        let mut segment = NodeSet::EMPTY;
        for (node, addr) in (0..).map(NodeId).zip(&network.nodes) {
            if addr.addrs.is_empty() || usize::from(addr.segment) >= network.segments.len() {
                return Err(NetworkError::Incomplete(node));
            }
            let token_port = addr
                .port
                .checked_add(1)
                .filter(|_| addr.port > 0)
                .ok_or(NetworkError::Port(node, addr.port))?;
            let ip = addr
                .addrs
                .iter()
                .find(|ip| ip.is_ipv4() == own_ip.is_ipv4())
                .ok_or(NetworkError::Family(node))?;
            addrs.push(SocketAddr::new(*ip, addr.port).into());
            addrs.push(SocketAddr::new(*ip, token_port).into());
            for ip in &addr.addrs {
                sources.push((SocketAddr::new(*ip, addr.port), node));
                sources.push((SocketAddr::new(*ip, token_port), node));
            }
            if addr.segment == own.segment && node != me {
                segment.insert(node);
            }
        }
        sources.sort_unstable();
        sources.dedup();
        if let Some(pair) = sources.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(NetworkError::SameAddress(pair[0].1, pair[1].1));
        }
        let multicast =
            segment_addr.multicast.filter(|addr| addr.is_ipv4() == own_ip.is_ipv4()).map(|addr| {
                addrs.push(addr.into());
                Dest(index(addrs.len() - 1))
            });
        Ok(Self { addrs, multicast, segment, sources })
    }

    /// Appends the destinations of a packet.
    pub(super) fn expand(&self, to: NodeSet, multicast: bool, class: Class, out: &mut Vec<Dest>) {
        let mut rest = to;
        // The token port has no multicast socket: nothing of that class concerns more than one daemon.
        if let Some(dest) = self.multicast.filter(|_| multicast && class == Class::Data) {
            let reached = to.intersection(self.segment);
            if !reached.is_empty() {
                out.push(dest);
                rest = to.difference(reached);
            }
        }
        let port = match class {
            Class::Data => 0,
            Class::Token => 1,
        };
        out.extend(
            rest.iter()
                .map(|node| node.index() * 2 + port)
                .filter(|i| *i < self.nodes_end())
                .map(|i| Dest(index(i))),
        );
    }

    /// The socket address of a destination.
    pub(super) fn addr(&self, dest: Dest) -> &SockAddr {
        &self.addrs[usize::from(dest.0)]
    }

    /// The daemon that sends from this address.
    pub(super) fn source(&self, mut from: SocketAddr) -> Option<NodeId> {
        if let SocketAddr::V6(v6) = &mut from {
            // The zone of a link-local address is this host's business.
            v6.set_scope_id(0);
        }
        let found = self.sources.binary_search_by(|(addr, _)| addr.cmp(&from)).ok()?;
        Some(self.sources[found].1)
    }

    fn nodes_end(&self) -> usize {
        self.addrs.len() - usize::from(self.multicast.is_some())
    }
}

fn index(i: usize) -> u16 {
    u16::try_from(i).expect("two addresses for each of at most 128 daemons")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::ring_driver) fn network(count: u16, multicast: Option<&str>) -> Network {
        Network {
            nodes: (0..count)
                .map(|i| NodeAddr {
                    segment: u16::from(i >= 3),
                    addrs: vec![IpAddr::from([127, 0, 0, u8::try_from(i + 1).unwrap()])],
                    port: 4803,
                })
                .collect(),
            segments: vec![
                SegmentAddr { multicast: multicast.map(|m| m.parse().unwrap()) },
                SegmentAddr { multicast: None },
            ],
        }
    }

    fn expanded(transport: &Transport, to: &[u16], multicast: bool, class: Class) -> Vec<SocketAddr> {
        let mut out = Vec::new();
        transport.expand(to.iter().copied().map(NodeId).collect(), multicast, class, &mut out);
        out.into_iter().map(|dest| transport.addr(dest).as_socket().unwrap()).collect()
    }

    fn addrs(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|addr| addr.parse().unwrap()).collect()
    }

    #[test]
    fn one_multicast_for_the_own_segment_and_copies_for_others() {
        let transport = Transport::new(&network(5, Some("239.1.2.3:4803")), NodeId(0)).unwrap();
        assert_eq!(
            expanded(&transport, &[1, 2, 3, 4], true, Class::Data),
            addrs(&["239.1.2.3:4803", "127.0.0.4:4803", "127.0.0.5:4803"])
        );
        assert_eq!(expanded(&transport, &[3], true, Class::Data), addrs(&["127.0.0.4:4803"]));
        assert_eq!(expanded(&transport, &[1], false, Class::Data), addrs(&["127.0.0.2:4803"]));
    }

    #[test]
    fn without_multicast_address_everybody_gets_a_copy() {
        let transport = Transport::new(&network(3, None), NodeId(1)).unwrap();
        assert_eq!(
            expanded(&transport, &[0, 2], true, Class::Data),
            addrs(&["127.0.0.1:4803", "127.0.0.3:4803"])
        );
    }

    #[test]
    fn tokens_go_to_the_token_port() {
        let transport = Transport::new(&network(3, Some("239.1.2.3:4803")), NodeId(0)).unwrap();
        assert_eq!(expanded(&transport, &[1], false, Class::Token), addrs(&["127.0.0.2:4804"]));
        assert_eq!(expanded(&transport, &[1], true, Class::Token), addrs(&["127.0.0.2:4804"]));
    }

    #[test]
    fn unknown_nodes_have_no_destination() {
        let transport = Transport::new(&network(3, Some("239.1.2.3:4803")), NodeId(0)).unwrap();
        assert!(expanded(&transport, &[3, 127], false, Class::Data).is_empty());
    }

    #[test]
    fn source_is_address_and_port() {
        let transport = Transport::new(&network(3, None), NodeId(0)).unwrap();
        let source = |text: &str| transport.source(text.parse().unwrap());
        assert_eq!(source("127.0.0.2:4803"), Some(NodeId(1)));
        assert_eq!(source("127.0.0.2:4804"), Some(NodeId(1)));
        assert_eq!(source("127.0.0.2:4805"), None);
        assert_eq!(source("127.0.0.9:4803"), None);
    }

    #[test]
    fn faulty_networks_are_refused() {
        let mut two = network(2, None);
        two.nodes[1].addrs = two.nodes[0].addrs.clone();
        assert_eq!(
            Transport::new(&two, NodeId(0)).err(),
            Some(NetworkError::SameAddress(NodeId(0), NodeId(1)))
        );
        let mut two = network(2, None);
        two.nodes[1].port = 65535;
        assert_eq!(Transport::new(&two, NodeId(0)).err(), Some(NetworkError::Port(NodeId(1), 65535)));
        let mut two = network(2, None);
        two.nodes[1].addrs = vec!["::1".parse().unwrap()];
        assert_eq!(Transport::new(&two, NodeId(0)).err(), Some(NetworkError::Family(NodeId(1))));
        assert_eq!(
            Transport::new(&network(2, None), NodeId(2)).err(),
            Some(NetworkError::UnknownNode(NodeId(2)))
        );
    }
}

//! From whom announcements are accepted (`AcceptStats`) and where they are sent (`MulticastStats`).
// spec: mod_backhand 2.1

use std::net::{Ipv4Addr, SocketAddrV4};

/// A range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: u32,
    mask: u32,
}

impl Network {
    /// Parses `10.0.5.1`, `10.0.5.128/25` or `10.0.5.0/255.255.255.0`.
    ///
    /// # Errors
    /// What is wrong, with the corrected network if bits of the host are set.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits)),
            None => (text, None),
        };
        let addr = parse_ip(addr)?;
        let mask = match bits {
            None => u32::MAX,
            Some(bits) if bits.contains('.') => {
                let mask = u32::from(parse_ip(bits)?);
                if mask.leading_ones() + mask.trailing_zeros().min(32) != 32 {
                    return Err(format!("\"{bits}\" is not a netmask"));
                }
                mask
            }
            Some(bits) => {
                let len: u32 = bits
                    .parse()
                    .ok()
                    .filter(|len| *len <= 32)
                    .ok_or_else(|| format!("\"{bits}\" is not a prefix length from 0 to 32"))?;
                u32::MAX.checked_shl(32 - len).unwrap_or(0)
            }
        };
        let base = u32::from(addr);
        if base & !mask != 0 {
            let network = Ipv4Addr::from(base & mask);
            return Err(format!(
                "{addr} is not the first address of its network; meant is {network}/{}",
                mask.leading_ones()
            ));
        }
        Ok(Self { base, mask })
    }

    /// Whether the address belongs to it.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & self.mask == self.base
    }
}

/// Where announcements are sent, and heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Local address to send from, and contact address to announce.
    pub interface: Option<Ipv4Addr>,
    /// HTTP port to announce.
    pub contact_port: Option<u16>,
    /// Where they are sent.
    pub dest: SocketAddrV4,
    /// Hops of a multicast.
    pub ttl: Option<u8>,
}

impl Destination {
    /// Parses the words of `MulticastStats`: `[ifaddr[:port]] dest:port[,ttl]`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let (interface, dest) = match words {
            [dest] => (None, *dest),
            [interface, dest] => (Some(*interface), *dest),
            _ => return Err("takes [interface address] destination:port[,ttl]".to_owned()),
        };
        let (interface, contact_port) = match interface.map(|i| (i, i.split_once(':'))) {
            None => (None, None),
            Some((_, Some((addr, port)))) => (Some(parse_ip(addr)?), Some(parse_port(port)?)),
            Some((addr, None)) => (Some(parse_ip(addr)?), None),
        };
        let mut parts = dest.split(',');
        let addr = parts.next().unwrap_or_default();
        let ttl = parts
            .next()
            .map(|ttl| {
                let value = ttl.parse::<u8>().ok().filter(|ttl| *ttl > 0);
                value.ok_or_else(|| format!("\"{ttl}\" is not a time to live from 1 to 255"))
            })
            .transpose()?;
        if parts.next().is_some() {
            return Err(format!("\"{dest}\" has more than one time to live"));
        }
        let (addr, port) = addr.split_once(':').ok_or_else(|| format!("\"{addr}\" has no port"))?;
        let dest = SocketAddrV4::new(parse_ip(addr)?, parse_port(port)?);
        Ok(Self { interface, contact_port, dest, ttl })
    }

    /// Whether it is handled as a multicast group.
    pub fn is_multicast(&self) -> bool {
        self.dest.ip().octets()[0] >= 224
    }

    /// What an administrator should know of it.
    pub fn warning(&self) -> Option<&'static str> {
        if self.dest.ip().octets()[0] >= 240 && !self.dest.ip().is_broadcast() {
            Some(
                "is in the reserved range 240.0.0.0/4, which is not multicast: nothing will be received on that \
                  group; use an address of 239.0.0.0/8",
            )
        } else if self.ttl.is_some() && !self.is_multicast() {
            Some("is not a multicast group: its time to live is ignored")
        } else {
            None
        }
    }
}

fn parse_ip(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an IPv4 address"))
}

/// Parses a port from 1 to 65535.
///
/// # Errors
/// What is wrong.
pub fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("\"{text}\" is not a port from 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_paper_parse() {
        // spec: mod_backhand 12 T1
        let parse = |line: &str| Destination::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let plain = parse("10.0.5.255:4445");
        assert_eq!(
            (plain.interface, plain.dest.to_string(), plain.ttl),
            (None, "10.0.5.255:4445".into(), None)
        );
        assert!(!plain.is_multicast() && plain.warning().is_none());
        let bound = parse("10.0.5.10 10.0.5.255:4445");
        assert_eq!(bound.interface, Some(Ipv4Addr::new(10, 0, 5, 10)));
        let group = parse("240.220.221.20:4445,3");
        assert_eq!(group.ttl, Some(3));
        assert!(group.is_multicast() && group.warning().unwrap().contains("240.0.0.0/4"));
        let both = parse("10.0.5.10 240.220.221.20:4445,3");
        assert_eq!((both.interface, both.ttl), (Some(Ipv4Addr::new(10, 0, 5, 10)), Some(3)));
        assert_eq!(parse("10.0.5.10:8080 10.0.5.255:1").contact_port, Some(8080));
        assert!(parse("10.0.5.255:4445,3").warning().unwrap().contains("ignored"));
        assert!(parse("239.1.2.3:4445,3").warning().is_none());
    }

    #[test]
    fn wrong_destinations_are_named() {
        for bad in [
            "",
            "10.0.5.255",
            "10.0.5.255:0",
            "10.0.5.255:65536",
            "a:1",
            "239.0.0.1:1,0",
            "239.0.0.1:1,256",
            "239.0.0.1:1,3,3",
            "x 10.0.5.255:4445",
            "1.2.3.4 1.2.3.4 1.2.3.4:5",
        ] {
            assert!(Destination::parse(&bad.split(' ').collect::<Vec<_>>()).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_contain_what_the_paper_says() {
        // spec: mod_backhand 12 T2
        let half = Network::parse("10.0.5.128/25").unwrap();
        for (last, inside) in [(127, false), (128, true), (255, true)] {
            assert_eq!(half.contains(Ipv4Addr::new(10, 0, 5, last)), inside, "{last}");
        }
        assert_eq!(half, Network::parse("10.0.5.128/255.255.255.128").unwrap());
        let one = Network::parse("10.0.5.1").unwrap();
        assert!(one.contains(Ipv4Addr::new(10, 0, 5, 1)) && !one.contains(Ipv4Addr::new(10, 0, 5, 2)));
        assert!(Network::parse("0.0.0.0/0").unwrap().contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert!(Network::parse("10.0.5.129/25").unwrap_err().contains("10.0.5.128/25"));
        for bad in ["", "10.0.5", "10.0.5.0/33", "10.0.5.0/255.0.255.0", "10.0.5.0/x", "10.0.5.0/"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}

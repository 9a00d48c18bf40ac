//! From whom announcements are accepted (`AcceptStats`) and where they are sent (`MulticastStats`).
// spec: mod_backhand 2.1

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A range of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: u128,
    mask: u128,
    v6: bool,
}

impl Network {
    /// Parses `10.0.5.1`, `10.0.5.128/25`, `10.0.5.0/255.255.255.0`, `fd00::1` or `fd00::/64`.
    ///
    /// # Errors
    /// What is wrong, with the corrected network if bits of the host are set.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits)),
            None => (text, None),
        };
        let addr = parse_ip(addr)?;
        let width = if addr.is_ipv6() { 128 } else { 32 };
        let len: u32 = match bits {
            None => width,
            Some(bits) if bits.contains('.') && addr.is_ipv4() => {
                let mask: Ipv4Addr = bits.parse().map_err(|_| format!("\"{bits}\" is not a netmask"))?;
                let mask = u32::from(mask);
                if mask.leading_ones() + mask.trailing_zeros().min(32) != 32 {
                    return Err(format!("\"{bits}\" is not a netmask"));
                }
                mask.leading_ones()
            }
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|len| *len <= width)
                .ok_or_else(|| format!("\"{bits}\" is not a prefix length from 0 to {width}"))?,
        };
        let all = u128::MAX >> (128 - width);
        let mask = all & all.checked_shl(width - len).unwrap_or(0);
        let (base, v6) = number(addr);
        if base & !mask != 0 {
            let network = match u32::try_from(base & mask) {
                Ok(base) if !v6 => IpAddr::from(Ipv4Addr::from(base)),
                _ => IpAddr::from(Ipv6Addr::from(base & mask)),
            };
            return Err(format!("{addr} is not the first address of its network; meant is {network}/{len}"));
        }
        Ok(Self { base, mask, v6 })
    }

    /// Whether the address belongs to it.
    pub fn contains(self, addr: IpAddr) -> bool {
        let (number, v6) = number(addr);
        v6 == self.v6 && number & self.mask == self.base
    }
}

/// An address as a number, and whether it is of IPv6.
fn number(addr: IpAddr) -> (u128, bool) {
    match addr.to_canonical() {
        IpAddr::V4(addr) => (u32::from(addr).into(), false),
        IpAddr::V6(addr) => (addr.into(), true),
    }
}

/// Where announcements are sent, and heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Local address to send from, and contact address to announce; of the same family as `dest`.
    pub interface: Option<IpAddr>,
    /// HTTP port to announce.
    pub contact_port: Option<u16>,
    /// Where they are sent.
    pub dest: SocketAddr,
    /// Hops of a multicast.
    pub ttl: Option<u8>,
}

impl Destination {
    /// Parses the words of `MulticastStats`: `[ifaddr[:port]] dest:port[,ttl]`. An IPv6 address with a port stands in brackets.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let (interface, dest) = match words {
            [dest] => (None, *dest),
            [interface, dest] => (Some(*interface), *dest),
            _ => return Err("takes [interface address] destination:port[,ttl]".to_owned()),
        };
        let (interface, contact_port) = match interface.map(parse_contact).transpose()? {
            None => (None, None),
            Some((addr, port)) => (Some(addr), port),
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
        let (ip, port) = parse_contact(addr)?;
        let port = port.ok_or_else(|| format!("\"{addr}\" has no port"))?;
        let dest = SocketAddr::new(ip, port);
        if interface.is_some_and(|interface| interface.is_ipv6() != dest.is_ipv6()) {
            return Err(format!("{dest} and the interface address are not of the same family"));
        }
        Ok(Self { interface, contact_port, dest, ttl })
    }

    /// Whether it is handled as a multicast group.
    pub fn is_multicast(&self) -> bool {
        match self.dest.ip() {
            IpAddr::V4(addr) => addr.octets()[0] >= 224,
            IpAddr::V6(addr) => addr.is_multicast(),
        }
    }

    /// What an administrator should know of it.
    pub fn warning(&self) -> Option<&'static str> {
        let reserved = |addr: Ipv4Addr| addr.octets()[0] >= 240 && !addr.is_broadcast();
        if matches!(self.dest.ip(), IpAddr::V4(addr) if reserved(addr)) {
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

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an address"))
}

/// Parses `10.0.5.1`, `10.0.5.1:80`, `fd00::1`, `[fd00::1]` or `[fd00::1]:80`.
///
/// # Errors
/// What is wrong.
pub fn parse_contact(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (addr, port) = match bracketed {
        Some((addr, "")) => (addr, None),
        Some((addr, rest)) => {
            let port = rest.strip_prefix(':').ok_or_else(|| format!("\"{text}\" is not an address"))?;
            (addr, Some(port))
        }
        None if text.matches(':').count() == 1 => {
            let (addr, port) = text.split_once(':').unwrap_or((text, ""));
            (addr, Some(port))
        }
        None => (text, None),
    };
    let addr = parse_ip(addr)?;
    if bracketed.is_some() && addr.is_ipv4() {
        return Err(format!("\"{text}\": brackets are for IPv6 addresses"));
    }
    Ok((addr, port.map(parse_port).transpose()?))
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

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 5, last).into()
    }

    #[test]
    fn addresses_of_ipv6_are_understood_everywhere() {
        let parse = |line: &str| Destination::parse(&line.split(' ').collect::<Vec<_>>());
        let group = parse("[ff05::1]:4445,3").unwrap();
        assert!(group.is_multicast() && group.warning().is_none());
        assert_eq!((group.dest.to_string().as_str(), group.ttl), ("[ff05::1]:4445", Some(3)));
        let bound = parse("[fd00::5]:8080 [ff05::1]:4445").unwrap();
        assert_eq!((bound.interface, bound.contact_port), (Some("fd00::5".parse().unwrap()), Some(8080)));
        assert!(!parse("fd00::5 [fd00::6]:4445").unwrap().is_multicast());
        for (bad, part) in [
            ("10.0.5.1 [ff05::1]:4445", "same family"),
            ("ff05::1", "has no port"),
            ("[10.0.5.1]:80", "brackets"),
            ("[ff05::1]4445", "not an address"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
        let net = Network::parse("fd00:1::/32").unwrap();
        assert!(net.contains("fd00:1::5".parse().unwrap()) && !net.contains("fd00:2::5".parse().unwrap()));
        assert!(
            !net.contains(v4(1)) && !Network::parse("0.0.0.0/0").unwrap().contains("::1".parse().unwrap())
        );
        assert!(Network::parse("10.0.5.0/24").unwrap().contains("::ffff:10.0.5.7".parse().unwrap()));
        assert!(Network::parse("fd00::1/64").unwrap_err().contains("meant is fd00::/64"));
        assert!(Network::parse("fd00::/129").is_err());
    }

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
        assert_eq!(bound.interface, Some(v4(10)));
        let group = parse("240.220.221.20:4445,3");
        assert_eq!(group.ttl, Some(3));
        assert!(group.is_multicast() && group.warning().unwrap().contains("240.0.0.0/4"));
        let both = parse("10.0.5.10 240.220.221.20:4445,3");
        assert_eq!((both.interface, both.ttl), (Some(v4(10)), Some(3)));
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
            assert_eq!(half.contains(v4(last)), inside, "{last}");
        }
        assert_eq!(half, Network::parse("10.0.5.128/255.255.255.128").unwrap());
        let one = Network::parse("10.0.5.1").unwrap();
        assert!(one.contains(v4(1)) && !one.contains(v4(2)));
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(Network::parse("10.0.5.129/25").unwrap_err().contains("10.0.5.128/25"));
        for bad in ["", "10.0.5", "10.0.5.0/33", "10.0.5.0/255.0.255.0", "10.0.5.0/x", "10.0.5.0/"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}

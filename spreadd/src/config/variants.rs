//! Configurations that are nearly ours, by the hash that a daemon with one of them sends.
//!
//! A daemon with another configuration is refused, and all that is known of its file are the first bytes of a
//! hash. But most such files were ours once, and one thing was changed in one of them: an entry added or removed,
//! two entries in another order, a switch set. So each of these is tried. The daemon whose file has the additional
//! entry recognizes the other file; the other way round nothing can be guessed, and only the fingerprints of the
//! parts help, which both daemons log.

use std::collections::BTreeMap;

use crate::config::hash::{hash, virtual_id};
use crate::config::model::Config;

/// The hash as packets carry it.
type Short = [u8; 4];

/// Configurations that differ from ours in one thing.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    known: BTreeMap<Short, String>,
    parts: String,
}

impl Variants {
    /// What is different in the configuration whose hash begins with `hash`, if it is one of these.
    pub fn difference(&self, hash: [u8; 4]) -> Option<&str> {
        self.known.get(&hash).map(String::as_str)
    }

    /// Fingerprints of the parts of our configuration. Those that are equal on two daemons are not what differs.
    pub fn parts(&self) -> &str {
        &self.parts
    }

    fn add(&mut self, ours: &Config, change: impl FnOnce(&mut Config), difference: String) {
        let mut theirs = ours.clone();
        change(&mut theirs);
        let [a, b, c, d, ..] = theirs.ring_hash();
        if theirs.hash_text() != ours.hash_text() {
            self.known.entry([a, b, c, d]).or_insert(difference);
        }
    }
}

impl Config {
    /// The configurations that differ from this one in one thing.
    pub fn variants(&self) -> Variants {
        let mut all = Variants { parts: self.parts(), ..Variants::default() };
        let accelerated = Some(self.options.accelerated_ring != Some(true));
        let state = |on: bool| if on { "true" } else { "not true" };
        all.add(
            self,
            |theirs| theirs.options.accelerated_ring = accelerated,
            format!("`AcceleratedRing` is {} there", state(accelerated == Some(true))),
        );
        let exclude = Some(self.options.exclude_segment_addresses != Some(true));
        all.add(
            self,
            |theirs| theirs.options.exclude_segment_addresses = exclude,
            format!("`ExcludeSegAddrsFromHash` is {} there", state(exclude == Some(true))),
        );
        for (s, segment) in self.segments.iter().enumerate() {
            let names = |from: usize| {
                let names: Vec<String> =
                    self.segments[from].daemons.iter().map(|d| d.name.to_string()).collect();
                names.join(", ")
            };
            if self.segments.len() > 1 {
                let what = format!("the segment of {} is missing there", names(s));
                all.add(self, |theirs| drop(theirs.segments.remove(s)), what);
            }
            if s > 0 {
                let what = format!(
                    "the segments of {} and of {} are in the other order there",
                    names(s - 1),
                    names(s)
                );
                all.add(self, |theirs| theirs.segments.swap(s - 1, s), what);
            }
            for (a, address) in segment.addresses.iter().enumerate().filter(|_| segment.addresses.len() > 1) {
                let what = format!("the segment of {} has no address {} there", names(s), address.ip);
                all.add(self, |theirs| drop(theirs.segments[s].addresses.remove(a)), what);
            }
            for (d, daemon) in segment.daemons.iter().enumerate() {
                let name = daemon.name;
                if segment.daemons.len() > 1 {
                    let what = format!("{name} is missing there");
                    all.add(self, |theirs| drop(theirs.segments[s].daemons.remove(d)), what);
                }
                if daemon.id_in_file {
                    let id = virtual_id(name.as_bytes());
                    let what = format!("{name} has no `VirtualID` there");
                    all.add(self, |theirs| theirs.segments[s].daemons[d].virtual_id = id, what);
                }
                if d > 0 {
                    let before = segment.daemons[d - 1].name;
                    let what = format!("{before} and {name} are in the other order there");
                    all.add(self, |theirs| theirs.segments[s].daemons.swap(d - 1, d), what);
                }
            }
        }
        all
    }

    /// See [`Variants::parts`].
    fn parts(&self) -> String {
        let part = |name: &str, lines: &mut dyn Iterator<Item = String>| {
            let text: Vec<String> = lines.collect();
            format!("{name}:{:08x}", hash(text.join("\n").as_bytes()))
        };
        let segments = &mut self.segments.iter().map(|s| {
            let addresses =
                s.addresses.iter().filter(|_| self.options.exclude_segment_addresses != Some(true));
            format!("{} {:?}", s.port, addresses.map(|a| a.ip).collect::<Vec<_>>())
        });
        let names = &mut self.daemons().map(|d| d.name.to_string());
        let addresses = &mut self.daemons().map(|d| d.address.ip.to_string());
        let ids = &mut self.daemons().map(|d| d.virtual_id.to_string());
        let options = &mut std::iter::once((self.options.accelerated_ring == Some(true)).to_string());
        [
            part("segments", segments),
            part("names", names),
            part("addresses", addresses),
            part("ids", ids),
            part("AcceleratedRing", options),
        ]
        .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, SystemHost, parse};

    const OURS: &str = "AcceleratedRing = true\nSpread_Segment 10.0.0.255:4803 {\n a 10.0.0.1\n b 10.0.0.2\n c \
                        10.0.0.3\n}\nSpread_Segment 10.0.1.255:4803 {\n d 10.0.1.1 VirtualID = 7\n}\n";

    fn config(text: &str) -> Config {
        parse("spread.conf", text.as_bytes(), &SystemHost).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn difference(ours: &str, theirs: &str) -> Option<String> {
        let [a, b, c, d, ..] = config(theirs).ring_hash();
        config(ours).variants().difference([a, b, c, d]).map(str::to_owned)
    }

    #[test]
    fn one_difference_is_named() {
        for (from, to, named) in [
            (" b 10.0.0.2\n", "", "b is missing there"),
            (" VirtualID = 7", "", "d has no `VirtualID` there"),
            ("AcceleratedRing = true\n", "", "`AcceleratedRing` is not true there"),
            (
                "AcceleratedRing",
                "ExcludeSegAddrsFromHash = true\nAcceleratedRing",
                "`ExcludeSegAddrsFromHash` is true there",
            ),
            (
                " b 10.0.0.2\n c 10.0.0.3\n",
                " c 10.0.0.3\n b 10.0.0.2\n",
                "b and c are in the other order there",
            ),
        ] {
            let theirs = OURS.replace(from, to);
            assert_eq!(difference(OURS, &theirs).as_deref(), Some(named), "{theirs}");
        }
    }

    #[test]
    fn an_entry_that_is_missing_here_can_only_be_named_there() {
        let more = OURS.replace(" c 10.0.0.3\n", " c 10.0.0.3\n e 10.0.0.5\n");
        assert_eq!(difference(OURS, &more), None);
        assert_eq!(difference(&more, OURS).as_deref(), Some("e is missing there"));
        let (ours, theirs) = (config(OURS).variants().parts, config(&more).variants().parts);
        let pairs = || ours.split(' ').zip(theirs.split(' '));
        let differ: Vec<&str> =
            pairs().filter(|(a, b)| a != b).filter_map(|(a, _)| a.split(':').next()).collect();
        assert_eq!(differ, ["names", "addresses", "ids"]);
    }

    #[test]
    fn the_same_configuration_is_no_difference() {
        assert_eq!(difference(OURS, OURS), None);
    }
}

//! The `$` logs of a configuration: which groups they feed, through which daemons.
//!
//! Built in the parent while mod_log_config opens its logs; each child works from a copy.

use std::collections::BTreeMap;

use bytes::Bytes;
use log_stream::group::{GROUP_BYTES_MAX, HostHash, Target, bucket_name};
use log_stream::{Audit, StreamConfig, Wire};

use crate::settings::{Daemon, Global, Settings};

/// All `$` logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) global: Global,
    pub(crate) links: Vec<Link>,
    pub(crate) logs: Vec<Log>,
    /// Error logs: name as written, and place in `logs`.
    pub(crate) errors: Vec<(Box<[u8]>, u32)>,
    /// Some log had no daemon configured and uses the default.
    pub(crate) default_daemon: bool,
}

/// One list of daemons, with the groups that go through it. Each child has one session per link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) streams: Vec<StreamConfig>,
    /// Streams that say hello as soon as the session is up; families have too many.
    pub(crate) announce: Vec<u32>,
    /// Places of the streams by their group.
    pub(crate) places: BTreeMap<Bytes, u32>,
}

/// One log directive.
#[derive(Clone, Debug)]
pub(crate) enum Log {
    /// All lines to one stream of a link.
    Group { link: usize, stream: u32 },
    /// Lines to `n` streams from `first` on, by the name of the virtual host.
    Family { link: usize, first: u32, n: u32, hash: HostHash },
    /// The name cannot be used (it was refused before, so this is not reached in practice): lines are counted as dropped.
    Bad,
}

impl Plan {
    /// Adds a log directive of a server; `None` when the name is none of ours.
    pub(crate) fn add(&mut self, settings: &Settings, name: &[u8]) -> Option<u32> {
        let log = match Target::parse(name)? {
            Ok(Target::Group(group)) => {
                let link = self.link(settings);
                let stream = self.stream(settings, link, &group, &group, true);
                Log::Group { link, stream }
            }
            Ok(Target::Family(prefix)) => {
                let link = self.link(settings);
                let n = self.global.buckets;
                let first = self.family(settings, link, &prefix, n);
                Log::Family { link, first, n, hash: self.global.hash }
            }
            Err(_) => Log::Bad,
        };
        self.logs.push(log);
        u32::try_from(self.logs.len() - 1).ok()
    }

    fn link(&mut self, settings: &Settings) -> usize {
        let daemons = if settings.daemons.is_empty() {
            self.default_daemon = true;
            vec![Daemon { text: "4803".into(), address: spread::Address::default() }]
        } else {
            settings.daemons.clone()
        };
        if let Some(link) = self.links.iter().position(|l| l.daemons == daemons) {
            return link;
        }
        self.links.push(Link { daemons, ..Link::default() });
        self.links.len() - 1
    }

    fn family(&mut self, settings: &Settings, link: usize, prefix: &[u8], n: u32) -> u32 {
        let first = bucket_name(prefix, 0);
        if let Some(found) = self.links[link].places.get(&first[..]) {
            return *found;
        }
        let start = self.links[link].streams.len();
        for bucket in 0..n {
            self.push_stream(settings, link, prefix, &bucket_name(prefix, bucket));
        }
        u32::try_from(start).unwrap_or(u32::MAX)
    }

    fn stream(&mut self, settings: &Settings, link: usize, name: &[u8], group: &[u8], announce: bool) -> u32 {
        if let Some(found) = self.links[link].places.get(group) {
            return *found;
        }
        let index = self.push_stream(settings, link, name, group);
        if announce {
            self.links[link].announce.push(index);
        }
        index
    }

    fn push_stream(&mut self, settings: &Settings, link: usize, name: &[u8], group: &[u8]) -> u32 {
        let stream = stream_config(&self.global, group, settings.wire_of(name));
        let link = &mut self.links[link];
        let place = u32::try_from(link.streams.len()).unwrap_or(u32::MAX);
        link.places.entry(stream.group.clone()).or_insert(place);
        link.streams.push(stream);
        place
    }

    /// Adds the error log of a server.
    pub(crate) fn add_errors(&mut self, settings: &Settings) {
        let Some(errors) = &settings.errors else { return };
        if self.errors.iter().all(|(name, _)| *name != errors.name)
            && let Some(log) = self.add(settings, &errors.name)
        {
            self.errors.push((errors.name.clone(), log));
        }
    }
}

impl Link {
    /// The list of daemons, as written.
    pub(crate) fn name(&self) -> String {
        let texts: Vec<&str> = self.daemons.iter().map(|d| &*d.text).collect();
        texts.join(" ")
    }
}

/// A stream that nobody was heard of.
pub(crate) fn stream_config(global: &Global, group: &[u8], wire: Wire) -> StreamConfig {
    let suffix = &global.audit_suffix;
    let fits = group.len() + suffix.len() <= GROUP_BYTES_MAX && global.audit != Audit::Off;
    StreamConfig {
        group: Bytes::copy_from_slice(group),
        audit_group: fits.then(|| Bytes::from([group, suffix].concat())),
        wire,
        heard: false,
    }
}

//! The loop without ring: multicast as fast as the receivers take it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::{Host, STAMP, addr, cpu, now};
use crate::report::Histogram;

impl Host {
    /// Multicasts as fast as the receivers take it: no order, no repair, only a window of unacknowledged
    /// datagrams, without which the receivers would lose most.
    pub(crate) fn bare_send(&mut self, receivers: usize, size: usize, ms: u64) -> Result<String> {
        const WINDOW: u64 = 1024;
        let (offload, bare) = self.bare.as_mut().context("not open")?;
        // Messages longer than a packet are cut, as the ring does.
        let parts = size.div_ceil(1428) as u64;
        let segment = u16::try_from(size.div_ceil(usize::try_from(parts)?))?;
        let burst = if *offload { 64.min(65_507 / usize::from(segment)) } else { 32 };
        let mut data = vec![0u8; burst * usize::from(segment)];
        let mut acked = vec![0u64; receivers];
        let mut sent = 0u64;
        let (begin, cpu_before) = (Instant::now(), cpu());
        let mut progress = Instant::now();
        while begin.elapsed() < Duration::from_millis(ms) {
            let least = acked.iter().copied().min().unwrap_or(0);
            if sent - least < WINDOW {
                for chunk in data.chunks_mut(usize::from(segment)) {
                    sent += 1;
                    chunk[..8].copy_from_slice(&sent.to_le_bytes());
                }
                bare.multicast(&data, segment, *offload)?;
            }
            let timeout = if sent - least < WINDOW { Duration::ZERO } else { Duration::from_millis(1) };
            let mut news = false;
            bare.receive(false, timeout, |ack| {
                let (Some(node), Some(number)) = (ack.first(), ack.get(1..9)) else { return };
                let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
                if let Some(slot) = acked.get_mut(usize::from(*node).wrapping_sub(1)) {
                    news |= number > *slot;
                    *slot = number.max(*slot);
                }
            })?;
            if news {
                progress = Instant::now();
            } else if progress.elapsed() > Duration::from_millis(5) {
                // The last datagrams of a window were lost.
                acked.fill(sent);
                progress = Instant::now();
            }
        }
        Ok(format!("{} {sent} {parts} {}", begin.elapsed().as_nanos(), cpu() - cpu_before))
    }

    /// Multicasts single datagrams with their times.
    pub(crate) fn bare_pace(&mut self, size: usize, ms: u64, rate: u64) -> Result<String> {
        let (_, bare) = self.bare.as_ref().context("not open")?;
        let mut data = vec![0u8; size.max(STAMP)];
        let begin = Instant::now();
        for number in 0..ms * rate / 1000 {
            let at = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            data[8..STAMP].copy_from_slice(&now().to_le_bytes());
            bare.multicast(&data, u16::try_from(data.len())?, false)?;
        }
        Ok("ok".into())
    }

    /// Counts and acknowledges datagrams, and measures the age of those that carry a time.
    pub(crate) fn bare_receive(&mut self, ms: u64) -> Result<String> {
        let me = u8::try_from(self.me)?;
        let (_, bare) = self.bare.as_mut().context("not open")?;
        let sender = SocketAddr::new(addr(0), 9_000);
        let mut ages = Histogram::default();
        let (mut count, mut bytes, mut highest, mut answered) = (0u64, 0u64, 0u64, 0u64);
        let (mut first, mut last) = (None, Instant::now());
        let end = Instant::now() + Duration::from_millis(ms);
        let cpu_before = cpu();
        while Instant::now() < end {
            let n = bare.receive(true, Duration::from_millis(10), |packet| {
                count += 1;
                bytes += packet.len() as u64;
                let number = packet.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
                highest = highest.max(number);
                if let Some(time) = packet.get(8..STAMP).filter(|_| number == 0) {
                    let time = u64::from_le_bytes(time.try_into().expect("8 bytes"));
                    ages.add(now().saturating_sub(time));
                }
            })?;
            if n > 0 {
                last = Instant::now();
                first.get_or_insert(last);
            }
            if highest - answered >= 128 || n == 0 && highest > answered {
                answered = highest;
                let mut ack = vec![me];
                ack.extend(highest.to_le_bytes());
                // Lost if the sender has ended.
                let _ = bare.send(sender, &ack);
            }
        }
        let time = first.map_or(0, |first| (last - first).as_nanos());
        let cpu = cpu() - cpu_before;
        Ok(format!(
            "{time} {count} {bytes} {cpu} {} {} {}",
            ages.quantile(0.5),
            ages.quantile(0.99),
            ages.max()
        ))
    }
}

//! Resources of this machine, read from Linux. The one module of this crate with clocks and files.
// spec: mod_backhand 5.1, 5.2
#![allow(clippy::disallowed_methods, reason = "a sampler reads the machine")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::stat::{Micros, ServerStat};

/// Version of the work of [`measure_arriba`], part of the cached value.
const WORK_VERSION: u32 = 1;
const ROUNDS: u32 = 5;
const ROUND_NANOS: i64 = 40_000_000;

/// Time of this machine.
pub fn now() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().into()
}

/// Reads load, CPU and memory. A source that cannot be read keeps its last value.
#[derive(Debug, Default)]
pub struct Sampler {
    cpu: Option<CpuTimes>,
    last: ServerStat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CpuTimes {
    idle: u64,
    all: u64,
}

impl Sampler {
    /// Fills the fields of the machine: `load`, `load_hwm`, `cpu`, `ncpu`, `tmem`, `amem`. `load_max` is the highest
    /// load times 1000 that an earlier sampler has seen.
    pub fn sample(&mut self, load_max: u32) -> ServerStat {
        let read = |path: &str| fs::read_to_string(path).ok();
        let last = &mut self.last;
        if let Some(load) = read("/proc/loadavg").as_deref().and_then(parse_load) {
            last.load = load;
        }
        last.load_hwm = crate::stat::high_water(load_max.max(last.load));
        if let Some(times) = read("/proc/stat").as_deref().and_then(parse_cpu) {
            last.cpu = idle_share(self.cpu.replace(times), times).unwrap_or(last.cpu);
        }
        let group = Group::read(read);
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        last.ncpu = group.cpus.map_or(cpus, |limit| limit.min(cpus)).max(1);
        if let Some((total, available)) = read("/proc/meminfo").as_deref().and_then(parse_memory) {
            (last.tmem, last.amem) = group.memory(total, available);
        }
        *last
    }
}

/// Limits of the control group of this process (version 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Group {
    cpus: Option<u32>,
    memory: Option<(u64, u64)>,
}

impl Group {
    fn read(read: impl Fn(&str) -> Option<String>) -> Self {
        let Some(own) = read("/proc/self/cgroup").as_deref().and_then(parse_group) else {
            return Self::default();
        };
        let file = |name: &str| read(&format!("/sys/fs/cgroup{own}/{name}"));
        let number = |name: &str| file(name).and_then(|text| text.trim().parse::<u64>().ok());
        Self {
            cpus: file("cpu.max").as_deref().and_then(parse_quota),
            memory: number("memory.max").zip(number("memory.current")),
        }
    }

    /// Total and available memory under the limit.
    fn memory(self, total: u64, available: u64) -> (u64, u64) {
        match self.memory {
            Some((limit, used)) if limit < total => (limit, limit.saturating_sub(used).min(available)),
            _ => (total, available),
        }
    }
}

fn parse_group(text: &str) -> Option<String> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(own.trim_end_matches('/').to_owned())
}

fn parse_quota(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    u32::try_from(quota.div_ceil(period.max(1))).ok()
}

/// First field, rounded to thousandths.
fn parse_load(text: &str) -> Option<u32> {
    let load = text.split_whitespace().next()?.parse::<f64>().ok().filter(|l| (0.0..1e6).contains(l))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Some((load * 1000.0).round() as u32)
}

fn parse_cpu(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|f| f.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(CpuTimes { idle, all: fields.iter().sum() })
}

/// Since the last sample; since boot for the first one.
fn idle_share(before: Option<CpuTimes>, now: CpuTimes) -> Option<u32> {
    let before = before.unwrap_or(CpuTimes { idle: 0, all: 0 });
    let (idle, all) = (now.idle.saturating_sub(before.idle), now.all.saturating_sub(before.all));
    let share = idle.saturating_mul(1000).checked_div(all)?;
    u32::try_from(share.min(1000)).ok()
}

/// Installed and available bytes.
fn parse_memory(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let available = field("MemAvailable").or_else(|| {
        let parts = [field("MemFree"), field("Buffers"), field("Cached")];
        parts.iter().flatten().copied().reduce(u64::saturating_add)
    });
    Some((field("MemTotal")?, available?))
}

/// Measures the speed of one CPU, which it loads fully for 0.2 s: units of a fixed piece of work per second of CPU time,
/// by 100, the best of five rounds. CPU time, not wall time: the value is the same on a busy machine.
pub fn measure_arriba() -> u32 {
    let mut memory = vec![0u8; 64 << 10];
    (0..ROUNDS).map(|round| measure_round(&mut memory, u64::from(round) + 1)).max().unwrap_or(1).max(1)
}

fn measure_round(memory: &mut [u8], seed: u64) -> u32 {
    let nanos = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
        Some(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
    };
    let Some(begin) = nanos() else { return 1 };
    let (mut units, mut state) = (0u64, seed);
    loop {
        for _ in 0..10 {
            state = unit_of_work(memory, state);
            units += 1;
        }
        let Some(spent) = nanos().map(|now| now - begin) else { return 1 };
        if spent >= ROUND_NANOS {
            black_box(state);
            let spent = u64::try_from(spent).unwrap_or(1).max(1);
            return u32::try_from(units * 10_000_000 / spent).unwrap_or(u32::MAX);
        }
    }
}

fn unit_of_work(memory: &mut [u8], seed: u64) -> u64 {
    let mut x = black_box(seed) | 1;
    for _ in 0..2000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    let mut y = black_box(1.000_001_f64);
    for _ in 0..2000 {
        y = y.mul_add(black_box(0.999_999), 1e-9);
    }
    for line in memory.chunks_mut(64) {
        line[0] = line[0].wrapping_add(1);
    }
    black_box(&memory);
    x ^ y.to_bits()
}

/// The speed of this machine from a file, or measured and written there. It is measured anew when the file is away, or
/// of another CPU or version.
///
/// # Errors
/// The value, and why it could not be kept.
pub fn arriba(cache: &Path) -> Result<u32, (u32, std::io::Error)> {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let known = fs::read_to_string(cache).ok().and_then(|text| {
        let mut lines = text.lines();
        let value = lines.next()?.parse::<u32>().ok().filter(|v| *v > 0)?;
        let same = lines.next()? == model && lines.next()? == WORK_VERSION.to_string();
        same.then_some(value)
    });
    if let Some(value) = known {
        return Ok(value);
    }
    let value = measure_arriba();
    match fs::write(cache, format!("{value}\n{model}\n{WORK_VERSION}\n")) {
        Ok(()) => Ok(value),
        Err(error) => Err((value, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(parse_load("1.25 0.50 0.10 2/300 4242\n"), Some(1250));
        assert_eq!(parse_load("much"), None);
        let times = parse_cpu("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2 3\n").unwrap();
        assert_eq!(times, CpuTimes { idle: 850, all: 1000 });
        assert_eq!(idle_share(None, times), Some(850));
        let later = CpuTimes { idle: 900, all: 1200 };
        assert_eq!(idle_share(Some(times), later), Some(250));
        assert_eq!(idle_share(Some(later), later), None);
        let memory = "MemTotal:        8388608 kB\nMemFree: 10 kB\nMemAvailable:    6291456 kB\n";
        assert_eq!(parse_memory(memory), Some((8_589_934_592, 6_442_450_944)));
        let old = "MemTotal: 8 kB\nMemFree: 1 kB\nBuffers: 2 kB\nCached: 3 kB\n";
        assert_eq!(parse_memory(old), Some((8192, 6144)));
        assert_eq!(parse_memory("nothing"), None);
    }

    #[test]
    fn a_control_group_limits() {
        let files = |path: &str| {
            let text = match path {
                "/proc/self/cgroup" => "0::/web.slice\n",
                "/sys/fs/cgroup/web.slice/cpu.max" => "150000 100000\n",
                "/sys/fs/cgroup/web.slice/memory.max" => "1000\n",
                "/sys/fs/cgroup/web.slice/memory.current" => "400\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let group = Group::read(files);
        assert_eq!(group, Group { cpus: Some(2), memory: Some((1000, 400)) });
        assert_eq!(group.memory(5000, 3000), (1000, 600));
        assert_eq!(group.memory(900, 300), (900, 300));
        assert_eq!(parse_quota("max 100000"), None);
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let stat = Sampler::default().sample(4700);
        assert!(stat.tmem >= stat.amem && stat.amem > 0, "{stat:?}");
        assert!(stat.ncpu >= 1 && stat.cpu <= 1000 && stat.load_hwm >= 8, "{stat:?}");
    }

    #[test]
    fn speed_is_measured_once() {
        let file = std::env::temp_dir().join(format!("backhand-arriba-{}", std::process::id()));
        let first = arriba(&file).unwrap();
        assert!(first > 1);
        assert_eq!(arriba(&file).unwrap(), first);
        fs::write(&file, "0\nx\n1\n").unwrap();
        assert!(arriba(&file).unwrap() > 0);
        fs::remove_file(&file).unwrap();
    }
}

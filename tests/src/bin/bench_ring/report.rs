//! Figures.

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) messages_per_second: f64,
    pub(crate) mbit_per_second: f64,
    /// Processor time of all processes per message, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) lost: u64,
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// The middle value; of two, the lower.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Prints the median of samples and returns the rate.
pub(crate) fn row(name: &str, samples: &[Sample]) -> f64 {
    let pick = |f: fn(&Sample) -> f64| median(samples.iter().map(f));
    let rate = pick(|s| s.messages_per_second);
    let low = samples.iter().map(|s| s.messages_per_second).fold(f64::INFINITY, f64::min);
    let high = samples.iter().map(|s| s.messages_per_second).fold(0.0, f64::max);
    println!(
        "{name:>34} {rate:>10.0} {:>10.0} {:>6.0}% {:>7.2} {:>9}",
        pick(|s| s.mbit_per_second),
        (high - low) / rate * 100.0,
        pick(|s| s.cpu_us),
        samples.iter().map(|s| s.lost).sum::<u64>()
    );
    rate
}

/// A histogram of durations in nanoseconds: 64 buckets per power of two, error below 2 %.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

const SUB_BITS: u32 = 6;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 64 << SUB_BITS], count: 0, max: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, nanos: u64) {
        self.buckets[Self::index(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that this part (0 to 1) of the values does not exceed.
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        let rank = (self.count as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return Self::value(index).min(self.max);
            }
        }
        self.max
    }

    fn index(nanos: u64) -> usize {
        let exponent = (63 - nanos.max(1).leading_zeros()).max(SUB_BITS) - SUB_BITS;
        ((exponent as usize) << SUB_BITS) + (nanos >> exponent) as usize
    }

    /// The largest value of a bucket.
    fn value(index: usize) -> u64 {
        let exponent = (index >> SUB_BITS).saturating_sub(1);
        let mantissa = index - (exponent << SUB_BITS);
        ((mantissa as u64 + 1) << exponent) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::default();
        for value in 1..=1_000_000u64 {
            histogram.add(value);
        }
        for part in [0.01, 0.5, 0.99, 1.0] {
            let exact = 1_000_000.0 * part;
            let error = (histogram.quantile(part) as f64 - exact).abs() / exact;
            assert!(error < 0.02, "{part}: {}", histogram.quantile(part));
        }
    }
}

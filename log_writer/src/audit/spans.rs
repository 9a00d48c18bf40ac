//! Sets of numbers as spans.

/// A set of numbers, as disjoint spans in order that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Adds all from `from` to `to`; returns how many of them were in the set before.
    pub fn add(&mut self, from: u64, to: u64) -> u64 {
        if to < from {
            return 0;
        }
        // Nearly always the end grows.
        match self.0.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(from) => {
                *end = to;
                return 0;
            }
            Some((_, end)) if *end >= from => {}
            _ => {
                self.0.push((from, to));
                return 0;
            }
        }
        let begin = self.0.partition_point(|(_, end)| end.saturating_add(1) < from);
        let after = self.0.partition_point(|(start, _)| *start <= to.saturating_add(1));
        let (mut new_from, mut new_to, mut before) = (from, to, 0);
        for (start, end) in &self.0[begin..after] {
            if *start <= to && *end >= from {
                before += (*end).min(to) - (*start).max(from) + 1;
            }
            (new_from, new_to) = (new_from.min(*start), new_to.max(*end));
        }
        self.0.splice(begin..after, [(new_from, new_to)]);
        before
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }

    /// Smallest number.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|s| s.0)
    }

    /// Largest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|s| s.1)
    }

    /// The spans.
    pub fn spans(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// What is between the spans.
    pub fn holes(&self) -> Vec<(u64, u64)> {
        self.0.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1)).collect()
    }

    /// Numbers of this set that are not in another.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut others = other.0.iter().peekable();
        for (from, to) in &self.0 {
            let mut at = *from;
            while let Some((start, end)) = others.peek() {
                if *start > *to {
                    break;
                }
                if *start > at {
                    left.push((at, start - 1));
                }
                at = at.max(end.saturating_add(1));
                if *end > *to {
                    break;
                }
                others.next();
            }
            if at <= *to {
                left.push((at, *to));
            }
        }
        Self(left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(spans: &Spans) -> BTreeSet<u64> {
        spans.0.iter().flat_map(|(a, b)| *a..=*b).collect()
    }

    proptest! {
        #[test]
        fn spans_are_sets(
            adds in prop::collection::vec((0u64..40, 0u64..8), 0..20),
            others in prop::collection::vec((0u64..40, 0u64..8), 0..20),
        ) {
            let build = |adds: &[(u64, u64)]| {
                let (mut spans, mut model) = (Spans::default(), BTreeSet::new());
                for (from, n) in adds {
                    let before = (*from..from + n).filter(|x| !model.insert(*x)).count() as u64;
                    assert_eq!(if *n == 0 { 0 } else { spans.add(*from, from + n - 1) }, before);
                }
                assert_eq!(set(&spans), model);
                assert!(spans.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{spans:?}");
                (spans, model)
            };
            let ((a, a_model), (b, b_model)) = (build(&adds), build(&others));
            prop_assert_eq!(a.count(), a_model.len() as u64);
            prop_assert_eq!(set(&a.without(&b)), &a_model - &b_model);
            let all = a.first().map_or(0..=0, |first| first..=a.last().expect("as first"));
            let holes: BTreeSet<u64> = all.filter(|x| a.first().is_some() && !a_model.contains(x)).collect();
            prop_assert_eq!(a.holes().iter().flat_map(|(x, y)| *x..=*y).collect::<BTreeSet<_>>(), holes);
        }
    }
}

//! Makes a failing history short: leaves out parts of it as long as it still fails.

use std::time::{Duration, Instant};

/// Gives the shortest list that was found on which `fails` holds, within `limit`. `fails(steps)` must hold.
pub(super) fn shrink<T: Clone>(steps: &[T], limit: Duration, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let end = Instant::now() + limit;
    let mut steps = steps.to_vec();
    // What comes after the failure has no part in it: the shortest prefix that fails, by halving.
    let (mut short, mut long) = (0, steps.len());
    while short < long && Instant::now() < end {
        let middle = usize::midpoint(short, long);
        if fails(&steps[..middle]) {
            long = middle;
        } else {
            short = middle + 1;
        }
    }
    if fails(&steps[..long]) {
        steps.truncate(long);
    }
    let mut chunk = steps.len().div_ceil(2).max(1);
    loop {
        let mut removed = false;
        let mut at = 0;
        while at < steps.len() {
            if Instant::now() >= end {
                return steps;
            }
            let mut fewer = steps[..at].to_vec();
            fewer.extend_from_slice(&steps[steps.len().min(at + chunk)..]);
            if fails(&fewer) {
                steps = fewer;
                removed = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !removed {
            return steps;
        }
        if !removed {
            chunk = chunk.div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::shrink;

    #[test]
    fn only_the_parts_that_matter_are_left() {
        let steps: Vec<u32> = (0..1000).collect();
        let fails = |steps: &[u32]| steps.contains(&17) && steps.contains(&800);
        assert_eq!(shrink(&steps, Duration::from_mins(1), fails), [17, 800]);
    }
}

//! When anti-entropy runs: the larger the cluster, the less often.

use std::time::Duration;

/// Time between two full syncs of one agent in a cluster of up to [`NODES_AT_FULL_PACE`] nodes (Consul's).
const FULL_SYNC_INTERVAL: Duration = Duration::from_mins(1);
/// Nodes up to which every agent keeps the full pace.
const NODES_AT_FULL_PACE: usize = 128;

/// Time between two full syncs, before the stagger: one more minute for each doubling beyond 128 nodes.
pub fn full_sync_interval(nodes: usize) -> Duration {
    let doublings = nodes.div_ceil(NODES_AT_FULL_PACE).max(1).next_power_of_two().ilog2();
    FULL_SYNC_INTERVAL * (doublings + 1)
}

#[cfg(test)]
mod tests {
    use super::full_sync_interval;

    #[test]
    fn each_doubling_beyond_128_nodes_adds_a_minute() {
        for (nodes, minutes) in [(0, 1), (3, 1), (128, 1), (129, 2), (256, 2), (257, 3), (1024, 4)] {
            assert_eq!(full_sync_interval(nodes).as_secs(), minutes * 60, "{nodes}");
        }
    }
}

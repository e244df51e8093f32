//! The times and numbers of the protocol, each with its reason.

use std::time::Duration;

/// How long a suspect has to deny its death: `least` when enough others confirm, `most` when nobody does,
/// `alone` when there is nobody who could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// With all confirmations.
    pub least: Duration,
    /// With none of several possible: then the accuser itself may be the sick one.
    pub most: Duration,
    /// In a cluster of two.
    pub alone: Duration,
}

/// All that can be tuned. The defaults find a machine that lost its power within 3 s on every other machine:
/// at most 0.5 s until its neighbour probes it, 0.5 s for that probe, 1 s of suspicion, 0.3 s of gossip.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often the ring neighbour is probed; as often one other member, half an interval later.
    /// Four packets out a second and member keep idle CPU below 0.05 % of a core.
    pub probe_interval: Duration,
    /// How long a direct answer may take before others are asked to try. A LAN answers in 1 ms; this is
    /// a scheduling delay of a busy machine.
    pub probe_timeout: Duration,
    /// How many others try when a direct probe has no answer (SWIM's k).
    pub indirect_probes: usize,
    /// Pause between two gossip rounds while there is news; without news nothing is sent.
    pub gossip_interval: Duration,
    /// Members told in one gossip round. With 50 ms a change reaches 1,000 members in about 0.3 s.
    pub gossip_fanout: usize,
    /// News are sent this often times the binary logarithm of the cluster's size. Serf takes four times the decimal
    /// one, which in clusters of less than ten too often misses somebody.
    pub retransmit_factor: u32,
    /// Confirmations after which a suspicion has its shortest time.
    pub confirmations: u32,
    /// Ring neighbours that probe a suspect at once. More than the confirmations needed, as some may be dead too.
    pub confirming_neighbours: usize,
    /// A suspect that neither UDP nor TCP reaches: machine or network gone.
    pub patience_silent: Patience,
    /// A suspect whose machine refuses the connection: the process is gone, or just being restarted.
    pub patience_refused: Patience,
    /// A suspect whose process accepts connections but says nothing: stopped or starved, so it exists.
    pub patience_stalled: Patience,
    /// Between two full exchanges of state with a random member; repairs what gossip lost.
    pub sync_interval: Duration,
    /// Between two attempts of the whole cluster (on average) to reach a failed member again.
    pub reconnect_interval: Duration,
    /// Longest time that an exchange over TCP may take.
    pub exchange_timeout: Duration,
    /// How long a failed member is remembered (Consul's `reconnect_timeout`).
    pub failed_kept: Duration,
    /// How long a member that left is remembered (Serf's tombstone time).
    pub left_kept: Duration,
    /// How long a pruned member is remembered (invisibly), so that a slow member's exchange does not bring it back.
    pub pruned_kept: Duration,
    /// How long a name must have been failed before another machine may take it (Consul's dead node reclaim).
    pub name_kept: Duration,
    /// How long a leaving member says so before it has left.
    pub leaving_time: Duration,
}

const fn patience(least: u64, most: u64, alone: u64) -> Patience {
    Patience {
        least: Duration::from_millis(least),
        most: Duration::from_millis(most),
        alone: Duration::from_millis(alone),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(50),
            gossip_fanout: 3,
            retransmit_factor: 3,
            confirmations: 2,
            confirming_neighbours: 8,
            patience_silent: patience(1000, 4000, 1200),
            patience_refused: patience(500, 2000, 700),
            patience_stalled: patience(5000, 12000, 6000),
            sync_interval: Duration::from_secs(30),
            reconnect_interval: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(5),
            failed_kept: Duration::from_hours(72),
            left_kept: Duration::from_hours(24),
            pruned_kept: Duration::from_mins(10),
            name_kept: Duration::from_secs(30),
            leaving_time: Duration::from_millis(150),
        }
    }
}

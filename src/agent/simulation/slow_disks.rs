//! Disks that are worn out or shared: a cluster must be repaired on them too.

use std::ops::Range;
use std::time::Duration;

use super::in_world;
use super::machine::Process;
use super::plan::Step;

/// A history with three servers and a client.
const SEED: u64 = 2;
/// How long such a disk takes for each write.
const TAKES: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(350);
/// So many people use the cluster at once: something is always being written.
const USERS: u64 = 50;
/// Seconds until a dead server must be replaced: in histories it is due after four, and then a few entries are written.
const REPLACED_WITHIN: usize = 30;

#[test]
fn clusters_replace_a_dead_server_though_each_write_takes_a_third_of_a_second() {
    in_world(SEED, async |world| {
        world.take(Step::Wait(250)).await;
        for machine in &world.machines {
            machine.disk.set(|faults| faults.delay = Some(TAKES));
        }
        world.users.start(USERS, 0, !SEED);
        world.take(Step::Wait(250)).await;
        let leader = world.leader().expect("a cluster with a leader");
        let follower = (0..3).find(|number| {
            let server = world.machines[*number].process.as_ref().and_then(Process::server);
            server.is_some_and(|server| server.view().id != leader.id)
        });
        let follower = follower.expect("a server that follows");
        world.take(Step::PowerOff(u8::try_from(follower).unwrap())).await;
        let lost = world.machines[follower].raft_id.expect("the raft id of a server");
        for _ in 0..REPLACED_WITHIN {
            world.take(Step::Wait(100)).await;
            world.look().await;
        }
        let voters = world.leader().expect("a leader").voters;
        assert!(voters.len() == 3 && !voters.contains(&lost), "{lost:x} is dead, and {voters:x?} vote");
    });
}

//! Histories of whole clusters: random ones, ones that failed once, and ones with planted faults.

use super::Clusters;
use super::plan::{Setup, Step};
use crate::simulation::explore::{Histories as _, explore, finds, replay};
use crate::simulation::mutants::{self, Mutant};
use crate::simulation::panics::first_panic;

/// Whole-cluster histories in `make test`.
const HISTORIES: u64 = 2_000;
/// Histories in which a planted fault must be found.
const PLANTED_HISTORIES_MAX: u64 = 500;

#[test]
fn clusters_keep_every_promise_whatever_happens() {
    explore(&Clusters, HISTORIES);
}

/// Found by simulation: the leader, killed before its own slow disk had what a follower had already, came back as the
/// leader of the same term and put other entries in the same places.
#[test]
fn clusters_do_not_let_a_killed_leader_lead_on_in_its_term() {
    let (before, slow) = ([Step::Wait(206), Step::PowerOff(1), Step::Wait(47)], [Step::SlowDisk(2, 152)]);
    replay(&Clusters, 242, &[&before[..], &slow, &[Step::Wait(23), Step::Wait(3), Step::Kill(2)]].concat());
}

/// Found by simulation: a server that lost its disk and was replaced came back blank, and its flags made it one server
/// too many for good.
#[test]
fn clusters_do_not_grow_when_a_machine_that_was_replaced_comes_back_blank() {
    replay(&Clusters, 2, &[Step::Wait(24), Step::Wait(12), Step::Wipe(2), Step::Linger(90)]);
}

/// Found by simulation: a nominated server was killed when it voted and nobody had settled its nomination. Restarted, it
/// no longer knew of it; so the nomination came to nothing, and the one that it had replaced came back as one too many.
#[test]
fn clusters_do_not_grow_when_a_nominated_server_is_killed_as_soon_as_it_votes() {
    let before = [Step::Wait(213), Step::Isolate(1), Step::Wait(45), Step::Weather(74, 8, 4), Step::Wait(31)];
    let after = [169, 210, 30, 177, 41].map(Step::Wait);
    replay(&Clusters, 702, &[&before[..], &after, &[Step::Kill(3)]].concat());
}

/// Found by simulation: gossip still showed a client that had just become a server as a client; it was nominated once
/// more, for another server, and counted as having come: that one, which lived, lost its vote.
#[test]
fn clusters_do_not_shrink_when_a_machine_that_votes_already_is_still_shown_as_a_client() {
    let steps = [Step::Wait(250), Step::Wait(106), Step::Wait(42), Step::Wait(42), Step::Isolate(0)];
    replay(&Clusters, 290, &[&steps[..], &[Step::Linger(119)]].concat());
}

/// A server is lost, and a new machine that was told to be one is started before the lost one is due for replacement.
#[test]
fn clusters_do_not_grow_when_a_new_machine_is_started_as_a_server_while_one_is_dead() {
    for lost in 0..3 {
        replay(&Clusters, 2, &[Step::Wait(250), Step::Renew(lost), Step::Start(lost), Step::Linger(120)]);
    }
}

/// Found by simulation: a client was frozen with requests under way and became a server when it went on. The server that it
/// had followed had moved, and nobody watched it for those requests any more.
#[test]
fn clusters_answer_who_asked_a_client_that_became_a_server() {
    let before = [Step::Wait(250), Step::Wait(210), Step::Wait(161), Step::Wait(220), Step::Wait(9)];
    let lost = [Step::PowerOff(2), Step::Wait(12), Step::Linger(44), Step::Wait(136), Step::Wait(28)];
    let after = [Step::Ruin(2, 246), Step::Wait(196), Step::Freeze(3), Step::Linger(54), Step::Move(1)];
    replay(&Clusters, 275, &[before, lost, after].concat());
}

/// Found by simulation: a machine that joined a successor followed one of its servers that was still being given the log,
/// took nothing from it for everything, and lost the names that it had.
#[test]
fn clusters_never_take_the_names_from_a_client_that_follows_a_server_with_nothing() {
    let before = [Step::Wait(35), Step::PowerOff(1), Step::Wait(15), Step::Linger(106), Step::Wait(88)];
    let lost = [Step::Wait(46), Step::Start(1), Step::Wait(28), Step::PowerOff(1), Step::Wait(19)];
    let recovered = [Step::Ruin(0, 128), Step::Linger(86), Step::Recover(3), Step::Wait(49), Step::Start(2)];
    let after = [Step::Wait(42), Step::Wait(177), Step::Wait(47), Step::Isolate(3), Step::Wait(35)];
    replay(&Clusters, 372, &[before, lost, recovered, after].concat());
}

/// Whichever majority is lost, and whether its disks are lost with it or come back.
#[test]
fn clusters_that_lose_their_quorum_go_on_as_one_successor_with_all_that_survivors_had() {
    for (first, wiped) in [(0, 0b11), (1, 0b01), (2, 0b00)] {
        let steps = [
            Step::Wait(250),
            Step::Ruin(first, wiped),
            Step::Wait(200),
            Step::Recover(first),
            Step::Linger(50),
        ];
        let mut story = Vec::new();
        Clusters.play(2, &steps, Some(&mut story));
        assert!(story.iter().any(|line| line.contains("founded")), "{story:?}");
    }
}

/// There are more, fewer and other servers as an operator says, whoever dies meanwhile, and whoever leaves and comes back.
#[test]
fn clusters_have_the_servers_that_an_operator_wants() {
    let seed = (0..1000).find(|seed| matches!(Setup::of(*seed), Setup { servers: 3, clients: 2 })).unwrap();
    let resized =
        [Step::Want(4, 5), Step::Linger(120), Step::PowerOff(1), Step::Linger(30), Step::Want(3, 3)];
    // Who leads can be neither exchanged nor removed.
    let exchanged = [Step::Transfer(0, 0), Step::Linger(60), Step::Exchange(2, 2, 4), Step::Linger(60)];
    let exchanged = [&exchanged[..], &[Step::Transfer(0, 4), Step::Retire(4, 0)]].concat();
    for (orders, given) in [(&resized[..], 2), (&exchanged, 4)] {
        let mut story = Vec::new();
        Clusters.play(seed, &[&[Step::Wait(250)], orders].concat(), Some(&mut story));
        assert_eq!(story.iter().filter(|line| line.contains("Ok(")).count(), given, "{story:#?}");
    }
    let leaving = |one| [Step::Leave(one), Step::Linger(120), Step::Start(one), Step::Linger(60)];
    let all: Vec<Step> = (0..5).flat_map(leaving).collect();
    replay(&Clusters, seed, &[&[Step::Wait(250)], &all[..]].concat());
}

/// A server leaves while another is lost for good and nobody can take its place, and comes back.
const LEAVES_WHILE_ONE_IS_LOST: [Step; 7] = [
    Step::Kill(3),
    Step::Wait(166),
    Step::Renew(0),
    Step::Linger(255),
    Step::Leave(1),
    Step::Linger(200),
    Step::Start(1),
];

/// Found by simulation: the others removed it from the voters, and none of what followed could be committed, also when it
/// came back.
#[test]
fn clusters_go_on_when_a_server_comes_back_that_left_while_another_was_lost() {
    replay(&Clusters, 166, &LEAVES_WHILE_ONE_IS_LOST);
}

#[test]
fn a_planted_departure_that_the_others_cannot_bear_is_found() {
    mutants::plant(Some(Mutant::AnybodySpared));
    let found = first_panic(|| Clusters.play(166, &LEAVES_WHILE_ONE_IS_LOST, None));
    mutants::plant(None);
    let why = found.expect_err("planted and not found");
    assert!(why.contains("s of calm: "), "{why}");
}

/// Found by simulation: a machine that was told to be a server, and for which there was no place, became a client in the moment
/// in which it was taken in. It was never asked again.
#[test]
fn clusters_ask_a_machine_that_became_a_client_when_it_was_taken_in() {
    let before = [Step::Wait(48), Step::Renew(3), Step::Start(3), Step::Wait(82)];
    for pause in 0..15 {
        let wanted = [Step::Wait(pause), Step::Want(1, 4)];
        replay(&Clusters, 855_843_642_939, &[&before[..], &wanted].concat());
    }
}

/// Found by simulation: a leader that left was killed when somebody had taken its place and before it had handed over the lead.
/// It came back, led on, and nobody removed it.
#[test]
fn clusters_remove_a_leader_that_was_killed_while_it_left() {
    let left = [Step::Wait(32), Step::Leave(0), Step::Freeze(0), Step::Wait(11), Step::FailSync(0)];
    replay(&Clusters, 218_239_453_022, &[&left[..], &[Step::Thaw(0)]].concat());
}

/// Found by simulation: a nominated server was removed before it voted. It stayed nominated for ten minutes, and showed old
/// names to the clients that followed it.
#[test]
fn clusters_do_not_wait_for_a_nominated_server_that_was_removed() {
    let fewer =
        [Step::Wait(190), Step::Weather(65, 17, 16), Step::Wait(74), Step::Want(0, 1), Step::Wait(48)];
    let removed = [Step::Want(4, 3), Step::Wait(145), Step::Retire(1, 3)];
    replay(&Clusters, 418, &[&fewer[..], &removed[..]].concat());
}

/// Found by simulation: a client that left while it became a server and came back was not asked again for ten minutes.
#[test]
fn clusters_ask_a_client_again_that_left_while_it_became_a_server() {
    let one = [Step::Cut(3, 0), Step::Wait(35), Step::Want(1, 5), Step::Leave(2), Step::Wait(38)];
    replay(&Clusters, 357, &[&one[..], &[Step::Isolate(1), Step::Wait(157), Step::Leave(3)]].concat());
}

/// Found by simulation: a client that lost its power while it left, and was back at once, was shown as leaving until anything
/// else changed, and was never asked.
#[test]
fn clusters_ask_a_client_that_is_back_which_went_down_while_it_left() {
    let left = [Step::Wait(83), Step::Leave(2), Step::Linger(67), Step::Want(1, 3), Step::Start(2)];
    replay(
        &Clusters,
        343_756_822_002,
        &[&left[..], &[Step::Wait(37), Step::Leave(2), Step::PowerOff(2)]].concat(),
    );
}

/// Found by simulation: the leader gave the place of a server that leaves to one that was to be one no more; the operator's
/// order stood in its log, and it had not applied that yet.
#[test]
fn clusters_are_led_by_who_has_seen_each_order_before_the_next_change() {
    let steps = [Step::Wait(250), Step::Wait(5), Step::Start(2), Step::Wait(31), Step::Leave(0)];
    replay(&Clusters, 916_160_681_025, &[&steps[..], &[Step::Wait(41), Step::Retire(1, 3)]].concat());
}

/// Found by simulation: a machine with an empty disk, which was not let in because its name is that of a dead server, was told to
/// leave. The server of that name was taken to have left.
#[test]
fn clusters_do_not_take_a_dead_server_to_have_left_because_a_namesake_leaves() {
    let namesake = [Step::Freeze(3), Step::Wipe(2), Step::Linger(82), Step::Move(2), Step::Leave(2)];
    replay(&Clusters, 916_160_679_690, &[&[Step::Wait(250)], &namesake[..], &[Step::Linger(77)]].concat());
}

/// Found by simulation: the survivor that was told to recover lost its power, and refused when it was back, because a better
/// one was back too.
#[test]
fn clusters_are_recovered_by_the_better_survivor_that_is_back_when_the_first_says_no() {
    let lost = [Step::Wait(250), Step::Isolate(0), Step::Linger(103), Step::PowerOff(2)];
    replay(
        &Clusters,
        916_160_684_080,
        &[&lost[..], &[Step::Ruin(3, 215), Step::RecoverAll(4, 239)]].concat(),
    );
}

/// A machine that began its cluster alone left it to another one, and comes back with an empty disk, at its address or at a
/// new one.
const COMES_BACK_BLANK: [(u64, &[Step]); 2] = [
    (
        472_432_072_590,
        &[Step::Leave(0), Step::Linger(50), Step::Start(0), Step::Wait(179), Step::Wipe(0), Step::Start(0)],
    ),
    (
        472_432_076_516,
        &[Step::Wait(250), Step::Leave(0), Step::Move(0), Step::Linger(102), Step::Wipe(0), Step::Start(0)],
    ),
];

/// Found by simulation: it began another cluster at once, though it was told whom to join.
#[test]
fn clusters_are_joined_by_the_machine_that_began_them_when_it_comes_back_blank() {
    for (seed, steps) in COMES_BACK_BLANK {
        replay(&Clusters, seed, steps);
    }
}

#[test]
fn a_planted_birth_without_a_look_at_others_is_found() {
    for (seed, steps) in COMES_BACK_BLANK {
        mutants::plant(Some(Mutant::BornUnseeing));
        let found = first_panic(|| Clusters.play(seed, steps, None));
        mutants::plant(None);
        let why = found.expect_err("planted and not found");
        let signs = ["is neither the one that was born nor a successor", "ClusterBorn"];
        assert!(signs.iter().any(|sign| why.contains(sign)), "{why}");
    }
}

/// A seed with so many servers.
fn seed_with(servers: usize) -> u64 {
    (0..1000).find(|seed| Setup::of(*seed).servers == servers).unwrap()
}

/// Of five servers three are lost, and all that are left are told to found the successor: one after the other without a
/// look at the answers, or at once; perhaps with a full disk, or with a loss of power in the middle.
fn tell_all_survivors(first: u8, trouble: u8) -> Vec<String> {
    let steps = [
        Step::Wait(250),
        Step::Ruin(first, 0b101),
        Step::Wait(200),
        Step::RecoverAll(first, trouble),
        Step::Linger(50),
    ];
    let mut story = Vec::new();
    Clusters.play(seed_with(5), &steps, Some(&mut story));
    story
}

#[test]
fn clusters_have_one_successor_when_all_survivors_are_told_to_found_it() {
    for (first, trouble) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        let story = tell_all_survivors(first, trouble);
        assert!(story.iter().any(|line| line.contains("founded")), "{story:?}");
    }
}

#[test]
fn clusters_have_one_successor_when_the_disk_of_its_founder_fills_or_its_power_fails() {
    for trouble in [0b0000_0010, 0b0010_1010, 0b1111_1011, 0b0000_1100, 0b0001_0101, 0b0010_0100] {
        tell_all_survivors(0, trouble);
    }
}

/// A server that comes back where a lost one was meets itself there.
#[test]
fn clusters_are_recovered_by_a_survivor_that_has_the_address_of_a_lost_server() {
    let lost = [Step::Wait(250), Step::Ruin(0, 0b11), Step::Swap(2, 0), Step::PowerOff(0), Step::Wait(100)];
    let mut story = Vec::new();
    Clusters.play(
        seed_with(3),
        &[&lost[..], &[Step::Recover(2), Step::Linger(50)]].concat(),
        Some(&mut story),
    );
    assert!(story.iter().any(|line| line.contains("founded")), "{story:?}");
}

#[test]
fn a_planted_second_recovery_is_found() {
    mutants::plant(Some(Mutant::RecoveredTwice));
    let found = first_panic(|| drop(tell_all_survivors(0, 1)));
    mutants::plant(None);
    let why = found.expect_err("planted and not found");
    assert!(why.contains("survivors founded") || why.contains("two successors"), "{why}");
}

fn start_copies(first: u8, second: u8) {
    for namesake in [false, true] {
        let copies = [Step::Clone(first, namesake), Step::Wait(50), Step::Clone(second, namesake)];
        let mut story = Vec::new();
        Clusters.play(2, &[&[Step::Wait(250)][..], &copies, &[Step::Linger(50)]].concat(), Some(&mut story));
        assert!(!story.iter().any(|line| line.contains("not now")), "{story:?}");
    }
}

#[test]
fn clusters_refuse_a_machine_that_is_started_with_a_copy_of_a_servers_disk() {
    start_copies(0, 1);
}

#[test]
fn clusters_refuse_a_machine_that_is_started_with_a_copy_of_a_clients_disk() {
    start_copies(3, 3);
}

/// Found by simulation: a server that was bound to the cluster at its birth and saw nothing of it, because it was
/// restarted just then, knew of no cluster whose successor it could join when the others were lost.
#[test]
fn clusters_take_a_server_into_their_successor_that_saw_nothing_of_them_but_their_birth() {
    let steps = [Step::Wait(26), Step::Thaw(3), Step::Move(2), Step::Wait(51), Step::Ruin(0, 58)];
    replay(&Clusters, 324, &steps);
}

#[test]
fn planted_faults_in_clusters_are_found() {
    let lost =
        ["does not start on a disk that works", "an acknowledged write is lost", "applied another entry"];
    let faults: [(Mutant, &[&str]); 11] = [
        (
            Mutant::VoteNotPersisted,
            &["two leaders in term", "must GE last_leader_log_ids", "applied another entry"],
        ),
        (Mutant::AcknowledgedEntryDropped, &lost),
        (Mutant::SyncSkipped, &lost),
        (Mutant::UncommittedShown, &["shows something else"]),
        (Mutant::ReadWithoutLease, &["a read shows what was not there"]),
        (Mutant::ReadsForgetTheUntold, &["a read shows what was not there"]),
        (Mutant::WatcherNotWoken, &["missed a change"]),
        (Mutant::RetiredTakenIn, &["which was retired, votes again", "s of calm: "]),
        (Mutant::AddedInsteadOfReplaced, &["a server comes and none goes"]),
        (Mutant::RemovedBeforeReplaced, &["a server goes and none comes"]),
        (Mutant::AddressesNotFollowed, &["s of calm: ", "nobody is served though everything works"]),
    ];
    let missed: Vec<Mutant> = faults
        .into_iter()
        .filter(|(fault, phrases)| !finds(&Clusters, *fault, phrases, PLANTED_HISTORIES_MAX))
        .map(|(fault, _)| fault)
        .collect();
    assert_eq!(missed, [], "planted and not found");
}

//! The next change of raft's configuration: who joins, who has caught up, who goes.

use super::{ConfiguredServer, ServerMember, can_spare, is_up};
use crate::model::catalog::{Nomination, Purpose, ServerTable};
use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;
#[cfg(test)]
use crate::simulation::mutants::{self, Mutant};

/// One change of the raft configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerChange {
    /// Take it in without a vote.
    AddLearner(ServerMember),
    /// Give it a vote.
    Promote(u64),
    /// Put it in the place of another, in one joint change.
    Replace {
        /// Who goes.
        old: u64,
        /// Who comes.
        new: u64,
    },
    /// It is a server no more.
    Remove(u64),
    /// It has another name or address now.
    Update(ServerMember),
    /// The leader is to be a server no more: another one leads, and removes it.
    HandOver,
    /// A joint change was interrupted: bring it to its end.
    Finish,
}

/// The next change that follows from who is there, or `None`.
pub(super) fn next_change(
    configured: &[ConfiguredServer],
    members: &[Member],
    cluster: &ClusterId,
    table: &ServerTable,
) -> Option<ServerChange> {
    let servers: Vec<ServerMember> = members.iter().filter_map(ServerMember::of).collect();
    let ours = |server: &&ServerMember| server.cluster.as_ref().is_none_or(|theirs| theirs == cluster);
    let alive = || servers.iter().filter(|server| server.is_alive()).filter(ours);

    let has_left =
        |id: u64| servers.iter().any(|server| server.id == id && server.status == MemberStatus::Left);
    let goes = |known: &&ConfiguredServer| has_left(known.id) || table.retired.contains(&known.id);
    let others = || configured.iter().filter(|known| !known.leader);
    if let Some(known) = others().filter(goes).find(|known| can_spare(known.id, configured, members)) {
        return Some(ServerChange::Remove(known.id));
    }
    for server in alive() {
        let Some(known) = configured.iter().find(|known| known.id == server.id) else {
            if may_join(server, configured, members, table) {
                return Some(ServerChange::AddLearner(server.clone()));
            }
            continue;
        };
        if known.name != server.name || known.address != server.address.to_string() {
            return Some(ServerChange::Update(server.clone()));
        }
        let uncalled = server.nomination.is_some_and(|serial| !is_present(serial, table));
        if !known.voter && (uncalled || !has_place(server, configured, members, table)) {
            return Some(ServerChange::Remove(known.id));
        }
        if !known.voter && known.caught_up {
            return Some(promotion(known, server, configured, table));
        }
    }
    // It left, and came back before it was removed: nobody else would ever do it.
    let retired = configured.iter().find(|known| known.leader && table.retired.contains(&known.id));
    let heir = |known: &ConfiguredServer| known.voter && known.caught_up && is_up(known, members);
    if let Some(leader) = retired
        && can_spare(leader.id, configured, members)
        && others().any(heir)
    {
        return Some(ServerChange::HandOver);
    }
    // A machine that became a client again, or lost its disk, before it voted.
    let lives_otherwise = |known: &&ConfiguredServer| {
        let living =
            members.iter().find(|member| member.name == known.name && member.status == MemberStatus::Alive);
        !known.voter
            && living.is_some_and(|member| ServerMember::of(member).is_none_or(|one| one.id != known.id))
    };
    if let Some(known) = configured.iter().find(lives_otherwise) {
        return Some(ServerChange::Remove(known.id));
    }
    // What is left of an earlier life of a machine whose present life votes. While it is not one too many, it is a dead
    // server as any other: another machine takes its place.
    let wanted = table.wanted.unwrap_or(table.born) as usize;
    let too_many = configured.iter().filter(|known| known.voter).count() > wanted;
    configured
        .iter()
        .find(|known| {
            !known.leader
                && too_many
                && alive().any(|server| server.name == known.name && server.id != known.id)
                && configured
                    .iter()
                    .any(|other| other.voter && other.name == known.name && other.id != known.id)
                && !alive().any(|server| server.id == known.id)
        })
        .map(|known| ServerChange::Remove(known.id))
}

/// A server that was replaced does not come back as if nothing had happened, and a nominated one comes only for its
/// own nomination.
fn may_join(
    server: &ServerMember,
    configured: &[ConfiguredServer],
    members: &[Member],
    table: &ServerTable,
) -> bool {
    #[cfg(test)]
    if mutants::is(Mutant::RetiredTakenIn) {
        return true;
    }
    !table.retired.contains(&server.id)
        && server.nomination.is_none_or(|serial| is_present(serial, table))
        && has_place(server, configured, members, table)
}

/// Whether there is a place for a server that is one by its flags. When there are as many servers as there shall be, a
/// newcomer has none, also while one of them is dead: it comes back or is replaced, and then there would be one too many.
pub(super) fn has_place(
    server: &ServerMember,
    configured: &[ConfiguredServer],
    members: &[Member],
    table: &ServerTable,
) -> bool {
    let voters = || configured.iter().filter(|known| known.voter);
    // A machine that lost its disk takes its own place.
    if server.nomination.is_some() || voters().any(|known| known.name == server.name) {
        return true;
    }
    if voters().count() < table.wanted.unwrap_or(table.born) as usize {
        return true;
    }
    // One server that began alone (`-bootstrap`) says nothing about how many there shall be. Whoever starts others with
    // it makes the cluster grow; but nobody grows what has just lost a server, and who was replaced wants its place back.
    let grows_by_hand = table.wanted.is_none() && table.born <= 1;
    let replaced = table
        .history
        .iter()
        .any(|swap| matches!(&swap.purpose, Purpose::Replace { node, .. } if *node == server.name));
    grows_by_hand && !replaced && voters().all(|voter| is_up(voter, members))
}

fn is_present(serial: u64, table: &ServerTable) -> bool {
    table.nomination.as_ref().is_some_and(|nomination| nomination.serial == serial)
}

fn promotion(
    known: &ConfiguredServer,
    server: &ServerMember,
    configured: &[ConfiguredServer],
    table: &ServerTable,
) -> ServerChange {
    let new = known.id;
    #[cfg(test)]
    if mutants::is(Mutant::AddedInsteadOfReplaced) {
        return ServerChange::Promote(new);
    }
    // A leader that leaves needs somebody to hand the lead over to; then it is removed as retired.
    match goes_for(known, server, configured, table) {
        Some(old) if !old.leader => replacement(old.id, new),
        _ => ServerChange::Promote(new),
    }
}

fn replacement(old: u64, new: u64) -> ServerChange {
    #[cfg(test)]
    if mutants::is(Mutant::RemovedBeforeReplaced) {
        return ServerChange::Remove(old);
    }
    ServerChange::Replace { old, new }
}

/// The voter whose place a learner takes.
fn goes_for<'a>(
    known: &ConfiguredServer,
    server: &ServerMember,
    configured: &'a [ConfiguredServer],
    table: &ServerTable,
) -> Option<&'a ConfiguredServer> {
    let mut voters = configured.iter().filter(|other| other.voter && other.id != known.id);
    let nomination: Option<&Nomination> =
        table.nomination.as_ref().filter(|nomination| server.nomination == Some(nomination.serial));
    if let Some(Nomination { purpose: Purpose::Replace { id, .. }, .. }) = nomination
        && let Some(old) = voters.clone().find(|other| other.id == *id)
    {
        return Some(old);
    }
    voters.find(|other| other.name == server.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{ConfiguredServer, ServerChange, next_change};
    use crate::model::catalog::{Departure, Nomination, Purpose, ServerTable, Swap};
    use crate::model::membership::{Member, MemberStatus};
    use crate::model::names::ClusterId;

    fn member(name: &str, id: u64, status: MemberStatus) -> Member {
        let tags = [
            ("role", "consul".to_owned()),
            ("rid", id.to_string()),
            ("port", "8300".to_owned()),
            ("id", "i".to_owned()),
        ];
        Member {
            name: name.to_owned(),
            address: [10, 0, 0, 1].into(),
            port: 8301,
            tags: tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
            status,
            incarnation: 0,
        }
    }

    fn server(name: &str, id: u64, voter: bool, caught_up: bool) -> ConfiguredServer {
        ConfiguredServer {
            id,
            name: name.to_owned(),
            address: "10.0.0.1:8300".to_owned(),
            incarnation: "i".to_owned(),
            voter,
            caught_up,
            leader: id == 1,
            last_index: None,
            heard: None,
        }
    }

    #[track_caller]
    fn check_with(table: &ServerTable, configured: &[ConfiguredServer], members: &[Member], want: &str) {
        let change = next_change(configured, members, &ClusterId::from_random(1), table);
        let text = match change {
            None => "nothing".to_owned(),
            Some(ServerChange::AddLearner(server)) => format!("learner {}", server.id),
            Some(ServerChange::Promote(id)) => format!("promote {id}"),
            Some(ServerChange::Replace { old, new }) => format!("replace {old} by {new}"),
            Some(ServerChange::Remove(id)) => format!("remove {id}"),
            Some(ServerChange::Update(server)) => format!("update {}", server.id),
            Some(ServerChange::HandOver) => "hand over".to_owned(),
            Some(ServerChange::Finish) => "finish".to_owned(),
        };
        assert_eq!(text, want);
    }

    #[track_caller]
    fn check(configured: &[ConfiguredServer], members: &[Member], want: &str) {
        check_with(&ServerTable::default(), configured, members, want);
    }

    const ALIVE: MemberStatus = MemberStatus::Alive;

    #[test]
    fn a_server_that_joins_becomes_a_learner_and_then_a_voter() {
        let members = [member("a", 1, ALIVE), member("b", 2, ALIVE)];
        check(&[server("a", 1, true, true)], &members, "learner 2");
        check(&[server("a", 1, true, true), server("b", 2, false, false)], &members, "nothing");
        check(&[server("a", 1, true, true), server("b", 2, false, true)], &members, "promote 2");
        check(&[server("a", 1, true, true), server("b", 2, true, true)], &members, "nothing");
    }

    #[test]
    fn a_server_that_left_is_removed_and_a_dead_one_is_not() {
        let configured = [server("a", 1, true, true), server("b", 2, true, true)];
        check(&configured, &[member("a", 1, ALIVE), member("b", 2, MemberStatus::Left)], "remove 2");
        check(&configured, &[member("a", 1, ALIVE), member("b", 2, MemberStatus::Failed)], "nothing");
    }

    #[test]
    fn nobody_goes_while_a_majority_of_those_that_are_left_is_down() {
        let voters = [server("a", 1, true, true), server("b", 2, true, false), server("c", 3, true, true)];
        let (failed, left) = (MemberStatus::Failed, MemberStatus::Left);
        let mut members = [member("a", 1, ALIVE), member("b", 2, failed), member("c", 3, left)];
        check(&voters, &members, "nothing");
        let table = ServerTable { retired: vec![3], ..ServerTable::default() };
        members[2].status = ALIVE;
        check_with(&table, &voters, &members, "nothing");
        members[2].status = left;
        members[1].status = ALIVE;
        check(&voters, &members, "remove 3");
        members[1].status = left;
        check(&voters, &members, "nothing");
        let mut heard = voters.clone();
        heard[2].heard = Some(std::time::Duration::ZERO);
        check(&heard, &members, "remove 2");
    }

    #[test]
    fn what_a_machine_was_that_is_a_client_again_or_lost_its_disk_before_it_voted_is_forgotten() {
        let configured = [server("a", 1, true, true), server("b", 2, false, false)];
        let mut members = [member("a", 1, ALIVE), member("b", 2, ALIVE)];
        check(&configured, &members, "nothing");
        members[1].tags.insert("role".to_owned(), "node".to_owned());
        check(&configured, &members, "remove 2");
        members[1].status = MemberStatus::Failed;
        check(&configured, &members, "nothing");
        check(&configured, &[member("a", 1, ALIVE), member("b", 3, ALIVE)], "learner 3");
        let late = [&configured[..], &[server("b", 3, false, false)]].concat();
        check(&late, &[member("a", 1, ALIVE), member("b", 3, ALIVE)], "remove 2");
    }

    #[test]
    fn a_machine_that_lost_its_disk_takes_the_place_of_its_earlier_life() {
        let members = [member("a", 1, ALIVE), member("b", 3, ALIVE)];
        let old = [server("a", 1, true, true), server("b", 2, true, false), server("b", 3, false, true)];
        check(&old, &members, "replace 2 by 3");
        let after = [server("a", 1, true, true), server("b", 2, false, false), server("b", 3, true, true)];
        check(&after, &members, "remove 2");
    }

    #[test]
    fn servers_of_another_cluster_are_not_taken_in() {
        let mut stranger = member("b", 2, ALIVE);
        stranger.tags.insert("cluster".to_owned(), ClusterId::from_random(2).to_string());
        check(&[server("a", 1, true, true)], &[member("a", 1, ALIVE), stranger], "nothing");
    }

    #[test]
    fn a_new_name_or_address_is_noted() {
        check(&[server("machine-id", 1, true, true)], &[member("a", 1, ALIVE)], "update 1");
    }

    #[test]
    fn a_retired_server_is_removed_and_not_taken_in_again() {
        let table = ServerTable { retired: vec![2], ..ServerTable::default() };
        let members = [member("a", 1, ALIVE), member("b", 2, ALIVE)];
        check_with(&table, &[server("a", 1, true, true)], &members, "nothing");
        let voters = [server("a", 1, true, true), server("b", 2, true, true)];
        check_with(&table, &voters, &members, "remove 2");
    }

    #[test]
    fn a_leader_that_is_retired_hands_over_as_soon_as_another_can_lead() {
        let table = ServerTable { retired: vec![1], ..ServerTable::default() };
        let mut members = [member("a", 1, ALIVE), member("b", 2, ALIVE)];
        check_with(&table, &[server("a", 1, true, true)], &members[..1], "nothing");
        let behind = [server("a", 1, true, true), server("b", 2, true, false)];
        check_with(&table, &behind, &members, "nothing");
        let voters = [server("a", 1, true, true), server("b", 2, true, true)];
        check_with(&table, &voters, &members, "hand over");
        members[1].status = MemberStatus::Failed;
        check_with(&table, &voters, &members, "nothing");
    }

    #[test]
    fn a_machine_that_was_replaced_and_comes_back_blank_is_taken_in_only_where_a_server_is_missing() {
        let purpose = Purpose::Replace { id: 7, node: "b".into(), why: Departure::Dead };
        let history = vec![Swap { node: "c".into(), purpose, at: 1 }];
        let table = ServerTable { born: 2, history, ..ServerTable::default() };
        let members = [member("a", 1, ALIVE), member("b", 2, ALIVE), member("c", 3, ALIVE)];
        let voters = [server("a", 1, true, true), server("c", 3, true, true)];
        check_with(&table, &voters, &members, "nothing");
        check_with(&table, &voters[..1], &members[..2], "learner 2");
        let late = [&voters[..], &[server("b", 2, false, true)]].concat();
        check_with(&table, &late, &members, "remove 2");
        let lost = [&voters[..1], &[server("b", 9, true, true)]].concat();
        check_with(&table, &lost, &members[..2], "learner 2");
    }

    #[test]
    fn a_nominated_server_comes_for_its_own_nomination_only_and_takes_the_place_it_was_nominated_for() {
        let mut nominee = member("c", 3, ALIVE);
        nominee.tags.insert("nom".to_owned(), "9".to_owned());
        let members = [member("a", 1, ALIVE), member("b", 2, MemberStatus::Failed), nominee];
        let voters = [server("a", 1, true, true), server("b", 2, true, false)];
        check(&voters, &members, "nothing");
        let purpose = Purpose::Replace { id: 2, node: "b".into(), why: Departure::Dead };
        let nomination = Nomination { serial: 9, node: "c".into(), incarnation: "i".into(), purpose };
        let table = ServerTable { nomination: Some(nomination), ..ServerTable::default() };
        check_with(&table, &voters, &members, "learner 3");
        let learner = [&voters[..], &[server("c", 3, false, true)]].concat();
        check_with(&table, &learner, &members, "replace 2 by 3");
    }

    #[test]
    fn a_newcomer_has_a_place_only_where_a_server_is_missing_also_while_one_is_dead() {
        let table = ServerTable { born: 3, ..ServerTable::default() };
        let failed = MemberStatus::Failed;
        let members =
            [member("a", 1, ALIVE), member("b", 2, ALIVE), member("c", 3, failed), member("d", 4, ALIVE)];
        let voters = [server("a", 1, true, true), server("b", 2, true, true), server("c", 3, true, false)];
        check_with(&table, &voters, &members, "nothing");
        let late = [&voters[..], &[server("d", 4, false, true)]].concat();
        check_with(&table, &late, &members, "remove 4");
        check_with(&table, &voters[..2], &members, "learner 4");
        let wanted = ServerTable { wanted: Some(5), ..table.clone() };
        check_with(&wanted, &voters, &members, "learner 4");
        check_with(&wanted, &late, &members, "promote 4");
        let fewer = ServerTable { wanted: Some(2), ..table };
        check_with(&fewer, &voters[..2], &members, "nothing");
    }

    #[test]
    fn a_cluster_that_was_begun_alone_grows_by_those_who_join_it_while_all_its_servers_live() {
        let table = ServerTable { born: 1, ..ServerTable::default() };
        let mut members = [member("a", 1, ALIVE), member("b", 2, ALIVE), member("c", 3, ALIVE)];
        let voters = [server("a", 1, true, true), server("b", 2, true, true)];
        check_with(&table, &voters, &members, "learner 3");
        members[1].status = MemberStatus::Failed;
        check_with(&table, &voters, &members, "nothing");
        let mut heard = voters.clone();
        heard[1].heard = Some(std::time::Duration::ZERO);
        check_with(&table, &heard, &members, "learner 3");
    }
}

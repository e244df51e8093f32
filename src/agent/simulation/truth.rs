//! What is true of the cluster as a whole: what was committed, who led when; and whether the machines agree with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::machine::Machine;
use crate::agent::rpc::decode;
use crate::model::catalog::{Catalog, Command};
use crate::simulation::running::{self, Applied};

/// All that was ever applied, in order.
#[derive(Default)]
pub(super) struct Truth {
    /// Term and command of each index.
    entries: BTreeMap<u64, (u64, Option<Bytes>)>,
    /// The catalog at each index.
    catalogs: BTreeMap<u64, Catalog>,
    /// The last index that each state machine applied.
    applied: BTreeMap<u64, u64>,
    /// The servers that vote, as committed last: two lists while they change.
    voters: Vec<BTreeSet<u64>>,
    leaders: BTreeMap<u64, u64>,
    /// The index at which each process was last compared.
    compared: BTreeMap<u64, u64>,
}

impl Truth {
    /// Takes in what was applied since: everybody applies the same, in order.
    pub(super) fn absorb(&mut self) {
        for Applied { process, index, term, machine, command, voters } in running::take_applied() {
            let last = self.applied.insert(machine, index);
            assert!(last.is_none_or(|last| last < index), "process {process} applied {index} after {last:?}");
            match self.entries.get(&index) {
                Some(known) => {
                    assert_eq!(*known, (term, command), "process {process} applied another entry {index}");
                }
                None => self.commit(index, term, command, voters),
            }
        }
    }

    fn commit(&mut self, index: u64, term: u64, command: Option<Bytes>, voters: Option<Vec<BTreeSet<u64>>>) {
        let (last, mut catalog) = self
            .catalogs
            .last_key_value()
            .map_or((None, Catalog::default()), |(at, one)| (Some(*at), one.clone()));
        assert!(last.is_none_or(|last| index == last + 1), "entry {index} came after {last:?}");
        if let Some(bytes) = &command {
            let command: Command = decode(bytes).expect("a command");
            if let Command::ClusterBorn { cluster_id } = &command {
                let ours = catalog.cluster().is_none_or(|ours| ours == cluster_id);
                assert!(ours, "two clusters: {:?} and {cluster_id}", catalog.cluster());
            }
            catalog.apply(index, &command);
        }
        if let Some(voters) = voters {
            self.change_voters(index, voters, &catalog);
        }
        catalog.skip_to(index);
        self.catalogs.insert(index, catalog);
        self.entries.insert(index, (term, command));
    }

    /// One server at a time; at most one less than at birth for a while, when what is left of an earlier life of a machine
    /// goes before somebody comes; and nobody who was retired (I4).
    fn change_voters(&mut self, index: u64, voters: Vec<BTreeSet<u64>>, catalog: &Catalog) {
        let all = |halves: &[BTreeSet<u64>]| halves.iter().flatten().copied().collect::<BTreeSet<u64>>();
        let before = all(&self.voters);
        let table = catalog.servers();
        let new: Vec<u64> = all(&voters).difference(&before).copied().collect();
        for id in &new {
            assert!(!table.retired.contains(id), "at {index} server {id:x}, which was retired, votes again");
        }
        assert!(before.is_empty() || new.len() <= 1, "at {index} {} servers come at once", new.len());
        for half in &voters {
            assert!(half.len() + 1 >= table.born as usize, "at {index} only {} servers vote", half.len());
        }
        self.voters = voters;
    }

    /// The catalog as committed last.
    pub(super) fn catalog(&self) -> Option<&Catalog> {
        self.catalogs.last_key_value().map(|(_, catalog)| catalog)
    }

    pub(super) fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(super) fn is_born(&self) -> bool {
        self.catalogs.last_key_value().is_some_and(|(_, catalog)| catalog.cluster().is_some())
    }

    /// Where this command stands in the log.
    pub(super) fn indexes_of(&self) -> BTreeMap<Bytes, Vec<u64>> {
        let mut found: BTreeMap<Bytes, Vec<u64>> = BTreeMap::new();
        for (index, (_, command)) in &self.entries {
            if let Some(command) = command {
                found.entry(command.clone()).or_default().push(*index);
            }
        }
        found
    }

    /// The values that a key had, each with the index since when.
    pub(super) fn values_of(&self, key: &str) -> Vec<(u64, Option<Bytes>)> {
        let mut values = vec![(0, None)];
        for (index, catalog) in &self.catalogs {
            let value = value_of(catalog, key);
            if values.last().is_some_and(|(_, before)| *before != value) {
                values.push((*index, value));
            }
        }
        values
    }

    /// One leader a term, and no replica that shows anything but what was committed up to its index.
    pub(super) fn compare(&mut self, machines: &[Machine]) {
        for machine in machines {
            let Some(process) = &machine.process else { continue };
            if let Some(server) = process.server() {
                let view = server.view();
                if view.leads {
                    let leader = *self.leaders.entry(view.term).or_insert(view.id);
                    assert_eq!(leader, view.id, "two leaders in term {}: {}", view.term, machine.name);
                }
            }
            let catalog = process.replica.snapshot();
            let index = catalog.index();
            let before = self.compared.insert(process.number, index);
            assert!(before.is_none_or(|before| before <= index), "{} goes back to {index}", machine.name);
            if index == 0 || before == Some(index) {
                continue;
            }
            let Some(committed) = self.catalogs.get(&index) else {
                panic!("{} shows index {index}, committed is {}", machine.name, self.last());
            };
            if process.has_all() {
                assert!(*catalog == *committed, "{} shows another catalog at {index}", machine.name);
            } else {
                let same = catalog.nodes().eq(committed.nodes())
                    && catalog.services().eq(committed.services())
                    && catalog.cluster() == committed.cluster();
                assert!(same, "the replica of {} shows something else at {index}", machine.name);
            }
        }
    }
}

/// The value of a key.
pub(super) fn value_of(catalog: &Catalog, key: &str) -> Option<Bytes> {
    use crate::model::catalog::{KvQuery, KvRows};
    match catalog.kv_query(&KvQuery::Get { key: key.to_owned() }).rows {
        KvRows::Entries(entries) => entries.first().map(|entry| entry.value.clone()),
        KvRows::Keys(_) => None,
    }
}

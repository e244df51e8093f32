//! What one cluster committed: the one that was born, or a successor, which begins with what its founder had.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::agent::rpc::decode;
use crate::model::catalog::{
    Catalog, Command, Departure, KvQuery, KvRows, Purpose, ServersCommand, Settlement,
};
use crate::model::names::ClusterId;
use crate::simulation::running::{Applied, Founded};

/// All that was ever applied in one cluster, in order.
#[derive(Default)]
pub(super) struct Line {
    /// Which line it is the successor of.
    pub(super) parent: Option<usize>,
    /// Whether it has committed anything of its own. A successor that never did is nobody's.
    pub(super) has_begun: bool,
    /// All that ever voted.
    pub(super) ever: BTreeSet<u64>,
    /// Who led in which term.
    pub(super) leaders: BTreeMap<u64, u64>,
    /// Term and command of each index.
    entries: BTreeMap<u64, (u64, Option<Bytes>)>,
    /// The catalog at each index.
    catalogs: BTreeMap<u64, Catalog>,
    /// The servers that vote, as committed last: two lists while they change.
    voters: Vec<BTreeSet<u64>>,
    /// Whether a nomination came to nothing: that machine may not be asked again for a while.
    pub(super) withdrawn: bool,
}

impl Line {
    /// Whether this entry was applied before, which must have been the same.
    pub(super) fn knows(&self, applied: &Applied) -> bool {
        let Applied { process, index, term, command, .. } = applied;
        let Some(known) = self.entries.get(index) else { return false };
        assert_eq!(*known, (*term, command.clone()), "process {process} applied another entry {index}");
        true
    }

    /// Takes in a new entry. `past`: who voted in a cluster that this one is the successor of. `leavers`: who was told to
    /// leave.
    pub(super) fn commit(&mut self, applied: Applied, past: &BTreeSet<u64>, leavers: &BTreeSet<u64>) {
        let Applied { index, term, command, voters, .. } = applied;
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
            self.withdrawn |= matches!(
                command,
                Command::Servers(ServersCommand::Settle { outcome: Settlement::Withdrawn { .. }, .. })
            );
            catalog.apply(index, &command);
        }
        if let Some(voters) = voters {
            self.change_voters(index, voters, &catalog, past, leavers);
        }
        catalog.skip_to(index);
        self.catalogs.insert(index, catalog);
        self.entries.insert(index, (term, command));
        self.has_begun = true;
    }

    /// One server comes at a time, and nobody who was retired or given up; one goes only in the same change in which
    /// another comes, unless there are more than there shall be or it was told to go, and one comes so too, unless there
    /// are fewer or it comes for one that goes afterwards, when it leads no more (I4).
    fn change_voters(
        &mut self,
        index: u64,
        voters: Vec<BTreeSet<u64>>,
        catalog: &Catalog,
        past: &BTreeSet<u64>,
        leavers: &BTreeSet<u64>,
    ) {
        let all = |halves: &[BTreeSet<u64>]| halves.iter().flatten().copied().collect::<BTreeSet<u64>>();
        let before = all(&self.voters);
        let table = catalog.servers();
        let new: Vec<u64> = all(&voters).difference(&before).copied().collect();
        for id in &new {
            assert!(!table.retired.contains(id), "at {index} server {id:x}, which was retired, votes again");
            assert!(!past.contains(id), "at {index} server {id:x} of the cluster before votes");
        }
        assert!(before.is_empty() || new.len() <= 1, "at {index} {} servers come at once", new.len());
        let wanted = table.wanted.unwrap_or(table.born) as usize;
        let count = self.voters.last().map_or(0, BTreeSet::len);
        let for_one_that_lives = table.nomination.as_ref().is_some_and(|nomination| {
            matches!(
                nomination.purpose,
                Purpose::Replace { why: Departure::Leaving | Departure::Ordered, .. }
            )
        });
        for half in &voters {
            let told =
                before.difference(half).filter(|id| table.retired.contains(id) || leavers.contains(id));
            assert!(
                half.len() + told.count() >= count.min(wanted),
                "at {index} a server goes and none comes: {half:x?} vote"
            );
            let limit = count.max(wanted) + usize::from(for_one_that_lives);
            let too_many = !before.is_empty() && half.len() > limit;
            assert!(!too_many, "at {index} a server comes and none goes: {half:x?} vote");
        }
        self.ever.extend(new);
        self.voters = voters;
    }

    /// The successor of this line (whose number is `parent`) as its founder made it ready: what was committed up to the
    /// founder's snapshot, and its log after that, committed or not.
    pub(super) fn succeeded(&self, parent: usize, founded: Founded) -> Self {
        let Founded { founder, catalog: first, last, from, tail } = founded;
        let mut entries: BTreeMap<_, _> =
            self.entries.range(..=from).map(|(at, one)| (*at, one.clone())).collect();
        let mut catalogs: BTreeMap<_, _> =
            self.catalogs.range(..=from).map(|(at, one)| (*at, one.clone())).collect();
        let mut catalog =
            catalogs.last_key_value().filter(|_| from > 0).map_or(Catalog::default(), |(_, one)| one.clone());
        for (index, term, command) in tail {
            if let Some(bytes) = &command {
                catalog.apply(index, &decode(bytes).expect("a command"));
            }
            catalog.skip_to(index);
            catalogs.insert(index, catalog.clone());
            entries.insert(index, (term, command));
        }
        let cluster = first.cluster().cloned().expect("a cluster");
        assert_eq!(catalog.index(), last, "the founder of {cluster} read its whole log");
        let expected = catalog.succeeded_by(cluster, first.servers().born);
        assert!(expected == first, "the successor does not begin with what its founder had");
        catalogs.insert(last, first);
        let voters = BTreeSet::from([founder]);
        Self {
            parent: Some(parent),
            has_begun: false,
            ever: voters.clone(),
            leaders: BTreeMap::new(),
            entries,
            catalogs,
            voters: vec![voters],
            withdrawn: self.withdrawn,
        }
    }

    /// The first committed entry that a log with one of these ends (term and index) had, and that a successor has not.
    pub(super) fn first_lost(&self, successor: &Self, logs: &[(u64, u64)]) -> Option<u64> {
        let had = |at: u64, of: u64| logs.iter().any(|(term, index)| at <= *index && of <= *term);
        let mut entries = self.entries.iter().filter(|(index, (term, _))| had(**index, *term));
        entries.find(|(index, entry)| successor.entries.get(index) != Some(entry)).map(|(index, _)| *index)
    }

    /// Which cluster it is, once it is born.
    pub(super) fn cluster(&self) -> Option<&ClusterId> {
        self.catalog()?.cluster()
    }

    /// The catalog as committed last.
    pub(super) fn catalog(&self) -> Option<&Catalog> {
        self.catalogs.last_key_value().map(|(_, catalog)| catalog)
    }

    pub(super) fn catalog_at(&self, index: u64) -> Option<&Catalog> {
        self.catalogs.get(&index)
    }

    pub(super) fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Where (index and term) each command stands in the log.
    pub(super) fn places(&self) -> BTreeMap<Bytes, BTreeSet<(u64, u64)>> {
        let mut found: BTreeMap<Bytes, BTreeSet<(u64, u64)>> = BTreeMap::new();
        for (index, (term, command)) in &self.entries {
            if let Some(command) = command {
                found.entry(command.clone()).or_default().insert((*index, *term));
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
}

/// The value of a key.
fn value_of(catalog: &Catalog, key: &str) -> Option<Bytes> {
    match catalog.kv_query(&KvQuery::Get { key: key.to_owned() }).rows {
        KvRows::Entries(entries) => entries.first().map(|entry| entry.value.clone()),
        KvRows::Keys(_) => None,
    }
}

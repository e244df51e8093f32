//! What is true of the cluster as a whole: what was committed, who led when; and whether the machines agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::line::Line;
use super::machine::Machine;
use crate::model::catalog::{Catalog, Departure, Purpose, Swap};
use crate::model::names::ClusterId;
use crate::model::sync::servers::REPLACEMENTS_PER_HOUR_MAX;
use crate::simulation::running::{self, Applied, Founded, Seen};

/// The hour of the limit, less what a step can take: what was committed is looked at after it.
const LIMITED: Duration = Duration::from_mins(58);

/// All that was ever applied, in order: of the cluster that was born, and of each that was founded as a successor.
pub(super) struct Truth {
    /// The first is the one that was born.
    lines: Vec<Line>,
    /// The last index that each state machine applied.
    applied: BTreeMap<u64, u64>,
    /// The index at which each process was last compared, for each line.
    compared: BTreeMap<(u64, usize), u64>,
    /// Term and index at which the logs of a cluster's survivors ended when an operator gave up the others.
    survivors: BTreeMap<ClusterId, Vec<(u64, u64)>>,
    /// The dead servers that were replaced in each line, and when that was seen.
    replaced: BTreeMap<usize, Vec<(Swap, Instant)>>,
    /// Raft ids of those who were told to leave.
    pub(super) leavers: BTreeSet<u64>,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            lines: vec![Line::default()],
            applied: BTreeMap::new(),
            compared: BTreeMap::new(),
            survivors: BTreeMap::new(),
            replaced: BTreeMap::new(),
            leavers: BTreeSet::new(),
        }
    }
}

impl Truth {
    /// Takes in what was applied since: everybody in one cluster applies the same, in order.
    pub(super) fn absorb(&mut self) {
        for seen in running::take_seen() {
            match seen {
                Seen::Applied(applied) => self.apply(applied),
                Seen::Founded(founded) => self.found(*founded),
            }
        }
    }

    fn apply(&mut self, applied: Applied) {
        let (process, index) = (applied.process, applied.index);
        let last = self.applied.insert(applied.machine, index);
        assert!(last.is_none_or(|last| last < index), "process {process} applied {index} after {last:?}");
        let line = self.line_of(applied.cluster.as_ref());
        if self.lines[line].knows(&applied) {
            return;
        }
        let siblings =
            self.lines.iter().filter(|one| one.parent.is_some() && one.parent == self.lines[line].parent);
        let begun =
            siblings.filter(|one| one.has_begun && one.cluster() != self.lines[line].cluster()).count();
        assert_eq!(begun, 0, "two successors of one cluster commit");
        let past = self.past_voters(line);
        self.lines[line].commit(applied, &past, &self.leavers);
        self.count_replaced(line);
    }

    /// A fault that kills one server after the other is not fed with new ones, whatever the clocks of the leaders show.
    fn count_replaced(&mut self, line: usize) {
        let Some(catalog) = self.lines[line].catalog() else { return };
        let known = self.replaced.entry(line).or_default();
        for swap in &catalog.servers().history {
            let dead = matches!(swap.purpose, Purpose::Replace { why: Departure::Dead, .. });
            if !dead || known.iter().any(|(one, _)| one == swap) {
                continue;
            }
            known.push((swap.clone(), Instant::now()));
            let recent = known.iter().filter(|(_, at)| at.elapsed() < LIMITED).count();
            assert!(recent <= REPLACEMENTS_PER_HOUR_MAX, "{recent} dead servers were replaced in an hour");
        }
    }

    /// The line of a cluster. Before the birth there is none but the first.
    fn line_of(&self, cluster: Option<&ClusterId>) -> usize {
        let Some(cluster) = cluster else { return 0 };
        let found = self.lines.iter().position(|line| line.cluster() == Some(cluster));
        let unborn = self.lines[0].cluster().is_none();
        found.unwrap_or_else(|| {
            assert!(unborn, "cluster {cluster} is neither the one that was born nor a successor");
            0
        })
    }

    /// The lines from a line's first ancestor to itself.
    fn ancestry(&self, line: usize) -> Vec<usize> {
        let mut found: Vec<usize> =
            std::iter::successors(Some(line), |line| self.lines[*line].parent).collect();
        found.reverse();
        found
    }

    fn past_voters(&self, line: usize) -> BTreeSet<u64> {
        let ancestors = self.ancestry(line);
        ancestors
            .iter()
            .filter(|past| **past != line)
            .flat_map(|past| self.lines[*past].ever.clone())
            .collect()
    }

    /// A successor begins with all that its founder had, and with all committed entries that any survivor had who was
    /// there to be asked.
    fn found(&mut self, founded: Founded) {
        let predecessor = founded.catalog.servers().predecessors.last().cloned();
        let predecessor = predecessor.expect("a predecessor");
        let parent = self.line_of(Some(&predecessor));
        let line = self.lines[parent].succeeded(parent, founded);
        let survivors = self.survivors.get(&predecessor).map(Vec::as_slice).unwrap_or_default();
        if let Some(lost) = self.lines[parent].first_lost(&line, survivors) {
            panic!("entry {lost} is not in the successor, and a survivor had it: they had {survivors:?}");
        }
        self.lines.push(line);
    }

    /// From now on a successor of this cluster must have all that was committed of what these logs (their last term and
    /// index) have.
    pub(super) fn will_keep(&mut self, cluster: &ClusterId, logs: Vec<(u64, u64)>) {
        self.survivors.insert(cluster.clone(), logs);
    }

    /// The cluster that there is: the successor of the successor…
    fn present(&self) -> &Line {
        let mut line = 0;
        while let Some(next) = (0..self.lines.len())
            .find(|next| self.lines[*next].parent == Some(line) && self.lines[*next].has_begun)
        {
            line = next;
        }
        &self.lines[line]
    }

    /// How many recoveries a cluster is away from the one that was born.
    pub(super) fn depth(&self, cluster: Option<&ClusterId>) -> usize {
        self.ancestry(self.line_of(cluster)).len()
    }

    /// The catalog as committed last.
    pub(super) fn catalog(&self) -> Option<&Catalog> {
        self.present().catalog()
    }

    /// Whether a nomination came to nothing, and what it was for may be ordered still.
    pub(super) fn had_failures(&self) -> bool {
        self.present().withdrawn
    }

    pub(super) fn cluster(&self) -> Option<&ClusterId> {
        self.present().cluster()
    }

    pub(super) fn last(&self) -> u64 {
        self.present().last()
    }

    pub(super) fn is_born(&self) -> bool {
        self.cluster().is_some()
    }

    /// What somebody who asked in this cluster may have been answered from: it, or a successor of it.
    pub(super) fn lines_since(&self, cluster: Option<&ClusterId>) -> impl Iterator<Item = &Line> {
        let from = self.line_of(cluster);
        let later = move |line: &usize| self.ancestry(*line).contains(&from);
        let begun = move |line: &usize| *line == from || self.lines[*line].has_begun;
        (0..self.lines.len()).filter(later).filter(begun).map(|line| &self.lines[line])
    }

    /// One leader a term, and no replica that shows anything but what was committed up to its index.
    pub(super) fn compare(&mut self, machines: &[Machine]) {
        for machine in machines {
            let Some(process) = &machine.process else { continue };
            if let Some(server) = process.server() {
                let view = server.view();
                let line = self.line_of(view.cluster.as_ref());
                if view.leads {
                    let leader = *self.lines[line].leaders.entry(view.term).or_insert(view.id);
                    assert_eq!(leader, view.id, "two leaders in term {}: {}", view.term, machine.name);
                }
            }
            let catalog = process.replica.snapshot();
            let index = catalog.index();
            let line = self.line_of(catalog.cluster());
            let before = self.compared.insert((process.number, line), index);
            assert!(before.is_none_or(|before| before <= index), "{} goes back to {index}", machine.name);
            if index == 0 || before == Some(index) {
                continue;
            }
            let Some(committed) = self.lines[line].catalog_at(index) else {
                panic!("{} shows index {index}, committed is {}", machine.name, self.lines[line].last());
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

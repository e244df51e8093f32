//! A machine is started with a copy of the disk of a machine that runs.

use std::net::IpAddr;

use super::World;
use super::machine::End;
use crate::simulation::network::Weather;
use crate::simulation::running;

/// Copies that are made in one history.
const COPIES_MAX: u8 = 2;

impl World {
    /// Starts a machine with a copy of the disk of another beside it, where they reach each other: it is refused, and also
    /// when its original is down. Then somebody gives it an empty disk and a name of its own, and it is one more client.
    pub(super) async fn start_copy(&mut self, number: usize, namesake: bool) -> Option<String> {
        let original = &self.machines[number];
        // Who leaves may be gone already when the copy looks for it.
        let runs = original
            .process
            .as_ref()
            .is_some_and(|process| !running::is_paused(process.number) && !process.leave.is_cancelled());
        if !runs || !self.truth.is_born() || self.had_bad_disk || self.copies == COPIES_MAX {
            return Some("not now".to_owned());
        }
        self.net.heal();
        self.net.weather(Weather::default());
        self.copies += 1;
        // Nobody else has it, whoever comes in the place of the original.
        let own = format!("{}c{}", original.name.split('x').next().unwrap_or_default(), self.copies);
        let name = if namesake { original.name.clone() } else { own.clone() };
        let copy = original.copy(name, IpAddr::from([10, 0, 2, self.copies]));
        self.machines.push(copy);
        let last = self.machines.len() - 1;
        self.refused(last).await;
        if self.copies == COPIES_MAX {
            self.end(number, End::PowerLost);
            self.refused(last).await;
            self.start(number).await;
        }
        let machine = &mut self.machines[last];
        machine.wipe();
        machine.name = own;
        machine.rename(false);
        self.start(last).await
    }

    async fn refused(&mut self, number: usize) {
        let told = self.start(number).await.unwrap_or_default();
        let name = &self.machines[number].name;
        assert!(told.contains("is a copy of that of the "), "{name} was started with a copy: {told:?}");
        assert!(told.contains("empty data directory"), "{name} is not told what to do: {told}");
    }
}

//! What can happen to a cluster, and what happens to the one of a seed.

use crate::simulation::chance::Chance;

/// One thing that happens to a machine (the number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many times ten milliseconds pass.
    Wait(u8),
    /// Its process is killed.
    Kill(u8),
    /// It loses power.
    PowerOff(u8),
    /// It comes back, if it is down.
    Start(u8),
    /// It loses power and its disk, if the others can bear it.
    Wipe(u8),
    /// What the first sends does not reach the second.
    Cut(u8, u8),
    /// It reaches nobody; nobody reaches it.
    Isolate(u8),
    /// The network is whole again.
    Heal,
    /// The longest time on the way in milliseconds, losses and doubles in a hundred.
    Weather(u8, u8, u8),
    /// Its disk takes up to so many milliseconds for a write.
    SlowDisk(u8, u8),
    /// Its disk is full.
    FullDisk(u8),
    /// The next sync of its disk fails.
    FailSync(u8),
    /// It loses power, and a byte in the older part of its log is no longer what was written.
    Rot(u8),
    /// Its disk works again.
    MendDisk(u8),
    /// So many times a hundred milliseconds pass.
    Linger(u8),
    /// Its process is stopped as by SIGSTOP: time goes on without it.
    Freeze(u8),
    /// It goes on, and everything that waited for it happens at once.
    Thaw(u8),
    /// Its clock shows another time of day: so many times a quarter of an hour away from the true one.
    Clock(u8, i8),
    /// It is restarted at another address.
    Move(u8),
    /// Both are restarted, each at the address of the other.
    Swap(u8, u8),
    /// It is lost, if the others can bear it, and a blank machine with another name gets its address.
    Renew(u8),
    /// All machines sleep for so many seconds.
    Sleep(u8),
    /// A majority of the servers, from this machine on, loses power; by the bits, some of them lose their disks as well.
    Ruin(u8, u8),
    /// A machine with a copy of its disk, server or client, is started beside it, with the same name or another.
    Clone(u8, bool),
    /// After a ruin, an operator recovers the cluster: from this machine, or from the next that may found a successor.
    Recover(u8),
    /// As that, but all who are left are told, from this machine on; what goes wrong meanwhile is in the bits.
    RecoverAll(u8, u8),
    /// Its agent is told to leave; it goes on until it has.
    Leave(u8),
    /// Told the first: the second is to lead.
    Transfer(u8, u8),
    /// Told the first: there are to be so many servers.
    Want(u8, u8),
    /// Told the first: the second is to be a server no more.
    Retire(u8, u8),
    /// Told the first: the third is to be a server in the place of the second.
    Exchange(u8, u8, u8),
}

pub(super) struct Setup {
    pub(super) servers: usize,
    pub(super) clients: usize,
}

impl Setup {
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        Self { servers: chance.pick(&[1, 3, 3, 3, 3, 5]), clients: chance.pick(&[1, 1, 2]) }
    }
}

/// What shall happen.
pub(super) fn plan(seed: u64) -> Vec<Step> {
    let setup = Setup::of(seed);
    let mut chance = Chance::new(seed);
    let count = u8::try_from(setup.servers + setup.clients).unwrap();
    let servers = u8::try_from(setup.servers).unwrap();
    let length = chance.pick(&[12, 20, 30]);
    let early = chance.one_in(3);
    let (crashing, network, disks) = (chance.one_in(3), chance.one_in(3), chance.one_in(2));
    // Most histories let the cluster be born first.
    let mut steps = if early { Vec::new() } else { vec![Step::Wait(250)] };
    let (mut frozen, mut ruined) = (Vec::new(), false);
    for _ in 0..length {
        let machine = chance.byte() % count;
        let step = match chance.below(20) {
            0 => Step::Kill(machine),
            1 => Step::PowerOff(chance.byte() % servers),
            4 if !crashing => Step::PowerOff(machine),
            5 if !early && chance.one_in(4) => Step::Rot(machine),
            5 if !early => Step::Wipe(machine),
            6 if !network => Step::Cut(machine, chance.byte() % count),
            7 if !network => Step::Isolate(machine),
            8 if !network => Step::Heal,
            9 if !network => Step::Weather(chance.byte() % 80, chance.byte() % 30, chance.byte() % 20),
            10 if !disks => match chance.below(4) {
                0 => Step::SlowDisk(machine, chance.byte()),
                1 => Step::FullDisk(machine),
                2 => Step::FailSync(machine),
                _ => Step::MendDisk(machine),
            },
            11 if chance.one_in(4) => Step::Sleep(chance.byte() % 60),
            12 | 13 if !early => Step::Linger(40 + chance.byte() % 80),
            16 => Step::Freeze(machine),
            17 if !early => match chance.below(5) {
                0 | 1 => Step::Move(machine),
                2 => Step::Swap(machine, chance.byte() % count),
                3 => Step::Renew(machine),
                _ => Step::Clock(machine, chance.byte().cast_signed()),
            },
            18 if !early && chance.one_in(4) => Step::Ruin(machine, chance.byte()),
            19 if !early && chance.one_in(6) => Step::Clone(machine, chance.one_in(2)),
            _ => Step::Start(machine),
        };
        steps.push(step);
        ruined |= matches!(step, Step::Ruin(..));
        if ruined && chance.one_in(3) {
            ruined = false;
            let (how, machine) = (chance.byte(), chance.byte() % count);
            steps.push(if how & 0x80 == 0 { Step::Recover(machine) } else { Step::RecoverAll(machine, how) });
        }
        if let Step::Freeze(machine) = step {
            frozen.push(machine);
        }
        if !frozen.is_empty() && chance.one_in(3) {
            steps.push(Step::Thaw(frozen.remove(0)));
        }
        steps.push(Step::Wait(if chance.one_in(3) { chance.byte() } else { chance.byte() % 50 }));
    }
    let mut operator = Chance::new(seed.rotate_left(31));
    if operator.one_in(3) { with_orders(&steps, count, &mut operator) } else { steps }
}

/// In between, operators give orders.
fn with_orders(steps: &[Step], count: u8, chance: &mut Chance) -> Vec<Step> {
    let mut ordered = Vec::new();
    for step in steps {
        ordered.push(*step);
        if !matches!(step, Step::Wait(_)) || !chance.one_in(5) {
            continue;
        }
        let [at, one, other] = [(); 3].map(|()| chance.byte() % count);
        ordered.push(match chance.below(8) {
            0..3 => Step::Leave(one),
            3 => Step::Transfer(at, one),
            4 | 5 => Step::Want(at, chance.pick(&[1, 2, 3, 3, 4, 5]).min(count)),
            6 => Step::Retire(at, one),
            _ => Step::Exchange(at, one, other),
        });
    }
    ordered
}

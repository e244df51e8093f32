//! One machine: a disk that outlives its processes, and what an agent is in its cluster, on the simulated network, disk
//! and clock.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::config::{Fragment, Settings};
use crate::agent::consensus::Server;
use crate::agent::handle::{Consensus, Replica};
use crate::agent::participant::{Participant, Participation};
use crate::agent::role::{Part, Roles};
use crate::agent::{Birth, GOSSIP_BIRTH_FILE};
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::{Faults, SimulatedDisk};
use crate::host::net::Network;
use crate::host::outside::random_bits;
use crate::host::site::Site;
use crate::model::membership::MemberStatus;
use crate::simulation::network::Net;
use crate::simulation::running;
use crate::tasks::{Spawner, Tasks};

const PORT_GOSSIP: u16 = 8301;
/// The data directory.
const DATA: &str = "/data";
/// How long a server must have been dead before it is replaced: short, so that short histories see it.
const REPLACE_AFTER: Duration = Duration::from_secs(4);

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process alone: the kernel lives on, tells the others, and writes what it has.
    Killed,
    /// The machine lost power: nobody is told, what was not synced may be lost or torn.
    PowerLost,
}

/// One machine.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    /// Whether its flags say that it is a server.
    server: bool,
    /// How many first servers it was told to expect.
    expect: Option<usize>,
    pub(super) disk: SimulatedDisk,
    /// The raft id that it last had as a server, if its disk is the same.
    pub(super) raft_id: Option<u64>,
    /// By how many seconds its clock is wrong.
    pub(super) wall_error: i64,
    /// How many machines have had its place.
    generation: u32,
    pub(super) process: Option<Process>,
}

/// A running agent.
pub(super) struct Process {
    pub(super) number: u64,
    spawner: Spawner,
    supervisor: AbortHandle,
    /// Cancelled when it ends: who asked it hears no more.
    pub(super) gone: CancellationToken,
    /// Cancelled when it is told to leave.
    pub(super) leave: CancellationToken,
    /// Why it ended by itself.
    pub(super) ended: watch::Receiver<Option<String>>,
    participation: Participation,
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) replica: Arc<Replica>,
}

impl Process {
    /// What it is now.
    pub(super) fn part(&self) -> Part {
        self.participation.roles.part()
    }

    /// The server, if it is one, be it without a vote.
    pub(super) fn server(&self) -> Option<Server> {
        self.part().server
    }

    /// What decides what it is.
    pub(super) fn roles(&self) -> Arc<Roles> {
        self.participation.roles.clone()
    }

    /// Whether its replica is that of a server.
    pub(super) fn has_all(&self) -> bool {
        self.participation.roles.is_whole_server()
    }
}

impl Machine {
    pub(super) fn new(number: usize, expect: Option<usize>) -> Self {
        Self {
            name: format!("m{number}"),
            ip: IpAddr::from([10, 0, 0, u8::try_from(number + 1).unwrap()]),
            server: expect.is_some(),
            expect,
            disk: SimulatedDisk::new(seed()),
            raft_id: None,
            wall_error: 0,
            generation: 0,
            process: None,
        }
    }

    /// A machine with a copy of its disk, as after a loss of power, and with its flags.
    pub(super) fn copy(&self, name: String, ip: IpAddr) -> Self {
        let disk = self.disk.copy();
        disk.lose_power_by_chance();
        disk.set(|faults| *faults = Faults::default());
        let (server, expect, wall_error) = (self.server, self.expect, self.wall_error);
        Self { name, ip, server, expect, disk, raft_id: None, wall_error, generation: 0, process: None }
    }

    /// Its disk is replaced by an empty one. Gives the raft id that it had.
    pub(super) fn wipe(&mut self) -> Option<u64> {
        self.disk = SimulatedDisk::new(seed());
        self.raft_id.take()
    }

    /// Whether it would begin a cluster alone if nobody told it of one.
    pub(super) fn would_begin_alone(&self) -> bool {
        let birth = Path::new(DATA).join(GOSSIP_BIRTH_FILE);
        self.expect == Some(1) && !self.disk.exists(&birth).is_ok_and(|there| there)
    }

    /// It is told to join, and not to be a server.
    pub(super) fn tell_to_join(&mut self) {
        (self.server, self.expect) = (false, None);
    }

    /// Another machine gets its place, and perhaps is told to be a server and to join.
    pub(super) fn rename(&mut self, server: bool) {
        self.generation += 1;
        (self.server, self.expect) = (server, None);
        let name = self.name.split('x').next().unwrap_or_default();
        self.name = format!("{name}x{}", self.generation);
    }

    /// Takes note of the raft id that it has now.
    pub(super) fn note_raft_id(&mut self) {
        if let Some(process) = &self.process {
            let part = process.part();
            self.raft_id = part.server.map(|_| part.raft_id);
        }
    }

    pub(super) fn end(&mut self, net: &Net, how: End) {
        self.note_raft_id();
        let Some(process) = self.process.take() else { return };
        net.stop(self.ip, how == End::Killed);
        match how {
            End::Killed => self.disk.kill(),
            End::PowerLost => self.disk.lose_power_by_chance(),
        }
        running::note((10, process.number, how == End::Killed));
        process.gone.cancel();
        process.supervisor.abort();
        process.spawner.kill();
        running::kill(process.number);
    }

    /// Starts an agent; one that cannot start is as one that ended.
    pub(super) async fn start(&mut self, number: u64, net: &Net, join: &[SocketAddr]) -> Result<(), String> {
        assert!(self.process.is_none(), "{} runs", self.name);
        running::set_wall_error(number, self.wall_error);
        let started = running::within(number, self.open(number, net, join)).await;
        running::note((11, number, started.is_ok()));
        match started {
            Ok(process) => {
                self.process = Some(process);
                Ok(())
            }
            Err(error) => {
                net.stop(self.ip, true);
                self.disk.kill();
                running::kill(number);
                Err(crate::hint::report(&error))
            }
        }
    }

    fn settings(&self, join: &[SocketAddr]) -> anyhow::Result<Settings> {
        let fragment = Fragment {
            data_dir: Some(PathBuf::from(DATA)),
            server: Some(self.server),
            bootstrap_expect: self.expect.and_then(|expect| i64::try_from(expect).ok()),
            bind_addr: Some(self.ip.to_string()),
            retry_join: join.iter().map(ToString::to_string).collect(),
            replace_after: Some(REPLACE_AFTER),
            ..Fragment::default()
        };
        Settings::check(fragment, &self.name)
    }

    async fn open(&self, number: u64, net: &Net, join: &[SocketAddr]) -> anyhow::Result<Process> {
        let tasks = Tasks::run_by(Arc::new(move |task| Box::pin(running::within(number, task))));
        let spawner = tasks.spawner();
        let site =
            Site { disk: Arc::new(self.disk.clone()), network: Network::Simulated(net.start(self.ip)) };
        let participant = Participant::look(self.settings(join)?, Birth::ByGossip, site, spawner.clone())?;
        let bound = participant.bind().await?;
        let participation = participant.start(bound).await?;
        let (sender, ended) = watch::channel(None);
        let leave = CancellationToken::new();
        let (told, roles) = (leave.clone(), participation.roles.clone());
        let supervisor = running::spawn(running::within(number, async move {
            let leaving = async {
                told.cancelled().await;
                roles.hand_over_leadership().await;
                roles.leave(|| ()).await;
            };
            let ended = tasks.run_until(leaving).await;
            sender.send_replace(Some(format!("{ended:?}")));
        }));
        Ok(Process {
            number,
            spawner,
            supervisor: supervisor.abort_handle(),
            gone: CancellationToken::new(),
            leave,
            ended,
            consensus: participation.roles.consensus(),
            participation,
            replica: participant.replica,
        })
    }

    /// Whether it knows that somebody lives there.
    pub(super) fn sees(&self, other: SocketAddr) -> bool {
        let Some(process) = &self.process else { return false };
        let members = process.participation.gossip.members();
        members.iter().any(|member| {
            member.status == MemberStatus::Alive
                && member.address == other.ip()
                && member.port == other.port()
        })
    }

    /// Where its gossip listens.
    pub(super) fn gossip_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT_GOSSIP)
    }
}

fn seed() -> u64 {
    u64::try_from(random_bits() >> 64).unwrap()
}

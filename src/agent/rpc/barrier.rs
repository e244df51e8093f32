//! Fresh reads: one question to the leader serves every read that was waiting when it was asked.
//!
//! A read that arrives while a question is under way waits for the next one: an older answer could miss a
//! write that the reader already knows of.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::messages::ReadIndex;
use crate::agent::handle::NoLeader;

/// Reads that may wait; more wait to be allowed to wait.
const READS_WAITING_MAX: usize = 4096;

type Waiter = (Instant, oneshot::Sender<Result<ReadIndex, NoLeader>>);

/// The door to a shared question.
#[derive(Clone)]
pub struct Barrier {
    waiting: mpsc::Sender<Waiter>,
}

impl Barrier {
    /// A barrier and the task that asks: `ask(deadline)` gives the index, or fails at the deadline.
    pub fn new<F, A>(
        stop: CancellationToken,
        ask: F,
    ) -> (Self, impl Future<Output = anyhow::Result<()>> + Send)
    where
        F: Fn(Instant) -> A + Send + Sync + 'static,
        A: Future<Output = Result<ReadIndex, NoLeader>> + Send,
    {
        let (waiting, reads) = mpsc::channel(READS_WAITING_MAX);
        (Self { waiting }, run(reads, stop, ask))
    }

    /// An index that every write acknowledged before this call is below of.
    ///
    /// # Errors
    /// When no leader answered up to `deadline`.
    pub async fn wait(&self, deadline: Instant) -> Result<ReadIndex, NoLeader> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send((deadline, answer)).await.map_err(|_| NoLeader)?;
        answered.await.map_err(|_| NoLeader)?
    }
}

async fn run<F, A>(mut reads: mpsc::Receiver<Waiter>, stop: CancellationToken, ask: F) -> anyhow::Result<()>
where
    F: Fn(Instant) -> A + Send + Sync + 'static,
    A: Future<Output = Result<ReadIndex, NoLeader>> + Send,
{
    let mut group = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = reads.recv_many(&mut group, READS_WAITING_MAX) => if count == 0 {
                // Nobody can read any more; the task still belongs to the process.
                stop.cancelled().await;
                return Ok(());
            },
            () = stop.cancelled() => return Ok(()),
        }
        // Those who came late in a long wait still get their whole hold: the latest deadline counts.
        let deadline = group.iter().map(|(deadline, _)| *deadline).max().unwrap_or_else(Instant::now);
        let answer = tokio::select! {
            biased;
            answer = ask(deadline) => answer,
            () = stop.cancelled() => return Ok(()),
        };
        for (_, waiter) in group.drain(..) {
            // A reader that is gone needs no answer.
            let _gone = waiter.send(answer).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::Barrier;
    use crate::agent::rpc::messages::ReadIndex;

    #[tokio::test(start_paused = true)]
    async fn reads_share_a_question_but_never_one_that_was_asked_before_them() {
        let asked = Arc::new(AtomicU64::new(0));
        let go = Arc::new(Semaphore::new(0));
        let (counter, gate) = (Arc::clone(&asked), Arc::clone(&go));
        let stop = CancellationToken::new();
        let (barrier, task) = Barrier::new(stop.clone(), move |_| {
            let index = counter.fetch_add(1, Ordering::Relaxed) + 1;
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("open").forget();
                Ok(ReadIndex { index, discovery: index })
            }
        });
        let deadline = Instant::now() + Duration::from_secs(7);
        let read = || barrier.wait(deadline);
        let reads = async {
            let first = read();
            let later = async {
                while asked.load(Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
                let late = futures_util::future::join_all((0..50).map(|_| read()));
                let open = async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    go.add_permits(2);
                };
                tokio::join!(late, open).0
            };
            let (first, late) = tokio::join!(first, later);
            assert_eq!(first.unwrap().index, 1);
            assert!(late.into_iter().all(|index| index.unwrap().index == 2));
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(task, reads);
        ended.unwrap();
    }
}

//! The same work on many machines at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Machines that are worked on at the same time: each is a connection, and a binary on its way.
const THREADS_MAX: usize = 32;

/// Does `work` with each of `items`, several at once; `done` sees each result as it comes. Gives them in order.
pub fn on_all<Item: Sync, Out: Send>(
    items: &[Item],
    work: impl Fn(&Item) -> Out + Sync,
    mut done: impl FnMut(usize, &Out),
) -> Vec<Out> {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::sync_channel(THREADS_MAX);
    let mut ordered: Vec<Option<Out>> = items.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for _ in 0..items.len().min(THREADS_MAX) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    // The receiver lives until all senders are gone.
                    if sender.send((number, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (number, result) in results {
            done(number, &result);
            ordered[number] = Some(result);
        }
    });
    ordered.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::on_all;

    #[test]
    fn results_come_back_in_order_and_each_is_told_once() {
        let items: Vec<usize> = (0..100).collect();
        let mut told = 0;
        let results = on_all(&items, |item| item * 2, |_, _| told += 1);
        assert_eq!((results[99], results.len(), told), (198, 100, 100));
        assert_eq!(on_all(&[0_u8; 0], |_| (), |_, ()| ()).len(), 0);
    }
}

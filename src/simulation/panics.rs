//! Panics of histories are findings: kept for the report, and not printed a thousand times while one is shrunk.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a history is played on this thread.
    static PLAYING: Cell<bool> = const { Cell::new(false) };
    /// The first panic of the history that is played on this thread.
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Does `work`; gives the message of the first panic on this thread, also of one that a runtime caught.
pub(crate) fn first_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !PLAYING.try_with(Cell::get).unwrap_or(false) {
                return usual(info);
            }
            let message = info.payload_as_str().unwrap_or("no message");
            let at = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
            FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| format!("{message}{at}"));
            });
        }));
    });
    PLAYING.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    PLAYING.set(false);
    match (FIRST.take(), done) {
        (None, Ok(done)) => Ok(done),
        (Some(message), _) => Err(message),
        (None, Err(_)) => Err("a panic without a message".to_owned()),
    }
}

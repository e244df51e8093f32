//! The checker's own tests: it accepts what a correct register may do, and finds each planted fault.

use std::fmt::Write as _;

use super::checker::check;
use super::history::{Action, History, Operation, StaleRead, Version};

/// Reads a history: one operation a line, `client begin-end action`; an end of `?` was never answered.
///
/// Actions: `put V`, `cas INDEX V yes|no|?`, `delete`, `get V@INDEX`, `get nothing`,
/// `stale SERVER.LIFE V@INDEX #X-CONSUL-INDEX`.
fn history(text: &str) -> History {
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let client = words[0].parse().unwrap();
        let (begin, end) = words[1].split_once('-').unwrap();
        let (invoked, returned) = (begin.parse().unwrap(), end.parse().ok());
        let number = |word: &str| word.parse::<u64>().unwrap();
        let version = |word: &str| {
            let (value, index) = word.split_once('@')?;
            Some(Version { value: number(value), index: number(index) })
        };
        let action = match &words[2..] {
            ["put", value] => Action::Put(number(value)),
            ["cas", expected, value, done] => Action::Cas {
                expected: number(expected),
                value: number(value),
                done: (*done != "?").then_some(*done == "yes"),
            },
            ["delete"] => Action::Delete,
            ["get", found] => Action::Get(version(found)),
            ["stale", place, found, index] => {
                let (server, life) = place.split_once('.').unwrap();
                history.stale.push(StaleRead {
                    client,
                    server: server.parse().unwrap(),
                    life: number(life),
                    found: version(found),
                    index: number(index.trim_start_matches('#')),
                    returned: returned.unwrap(),
                });
                continue;
            }
            other => panic!("no action: {other:?}"),
        };
        history.operations.push(Operation { client, action, invoked, returned });
    }
    history
}

#[track_caller]
fn explained(text: &str) {
    if let Err(why) = check(&history(text)) {
        panic!("{text}\nis correct, but: {why}");
    }
}

#[track_caller]
fn refused(text: &str) {
    assert!(check(&history(text)).is_err(), "{text}\nis broken, but was accepted");
}

#[test]
fn the_checker_accepts_what_a_register_may_do() {
    explained("");
    explained("1 0-1 get nothing");
    // One after the other.
    explained(
        "1 0-1 put 7 \n 1 2-3 get 7@5 \n 1 4-5 cas 5 8 yes \n 1 6-7 get 8@6 \n 1 8-9 delete \n 1 10-11 get nothing",
    );
    // Concurrent writes: either may be last.
    explained("1 0-10 put 1 \n 2 0-10 put 2 \n 3 11-12 get 1@9");
    explained("1 0-10 put 1 \n 2 0-10 put 2 \n 3 11-12 get 2@9");
    // A read beside a write sees it or not, and two beside it in the one possible order.
    explained("1 0-10 put 1 \n 2 1-2 get nothing \n 3 3-4 get 1@5");
    // Of two concurrent compare-and-sets one wins.
    explained("1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-9 cas 5 2 yes \n 3 4-9 cas 5 3 no \n 1 10-11 get 2@6");
    // Created only if it is not there.
    explained("1 0-1 cas 0 1 yes \n 2 2-3 cas 0 2 no \n 1 4-5 delete \n 2 6-7 cas 0 3 yes \n 2 8-9 get 3@9");
    // Refused, because a write that nobody saw came between.
    explained("1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-? put 2 \n 3 6-7 cas 5 3 no \n 4 8-9 put 4");
    // A delete and a put may be in either order.
    explained("1 0-1 put 1 \n 2 2-9 delete \n 3 2-9 put 2 \n 4 10-11 get nothing");
    explained("1 0-1 put 1 \n 2 2-9 delete \n 3 2-9 put 2 \n 4 10-11 get 2@9");
}

#[test]
fn the_checker_accepts_that_an_unanswered_write_is_done_never_late_or_once() {
    explained("1 0-? put 1 \n 2 2-3 get nothing \n 2 4-5 get nothing");
    explained("1 0-? put 1 \n 2 2-3 get nothing \n 2 40-50 get 1@8");
    explained("1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-? cas 5 2 ? \n 3 6-7 get 1@5 \n 3 8-9 get 2@7");
    explained(
        "1 0-1 put 1 \n 2 2-? delete \n 3 4-5 get 1@5 \n 3 6-7 get nothing \n 3 8-9 put 2 \n 3 10-11 get 2@9",
    );
    // An unanswered compare-and-set whose condition no longer holds does nothing.
    explained(
        "1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-? cas 5 2 ? \n 3 5-6 put 3 \n 3 7-8 get 3@6 \n 3 9-10 get 3@6",
    );
}

#[test]
fn the_checker_refuses_reads_that_no_order_explains() {
    // An acknowledged write is lost, or seen only later.
    refused("1 0-1 put 1 \n 2 2-3 get nothing");
    refused("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 get 1@5");
    refused("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 get 2@6 \n 2 6-7 get 1@5");
    // Seen and gone again, seen by one and afterwards not by another.
    refused("1 0-? put 1 \n 2 2-3 get 1@5 \n 2 4-5 get nothing");
    refused("1 0-20 put 1 \n 2 2-3 get 1@5 \n 3 4-5 get nothing");
    refused("1 0-1 put 1 \n 2 2-? put 2 \n 3 4-5 get 2@6 \n 3 6-7 get 1@5 \n 3 8-9 get 2@6");
    // Deleted and still there.
    refused("1 0-1 put 1 \n 1 2-3 delete \n 2 4-5 get 1@5");
    // From nowhere, or from the future.
    refused("1 0-1 get 9@5");
    refused("1 0-1 get 1@5 \n 2 2-3 put 1");
    // Two that see two concurrent writes in different orders.
    refused("1 0-9 put 1 \n 2 0-9 put 2 \n 3 10-11 get 1@5 \n 4 12-13 get 2@6");
}

#[test]
fn the_checker_refuses_compare_and_sets_that_no_order_explains() {
    // Both won, though they wanted the same index.
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-9 cas 5 2 yes \n 3 4-9 cas 5 3 yes");
    refused("1 0-9 cas 0 1 yes \n 2 0-9 cas 0 2 yes");
    // Refused without a reason.
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 cas 5 2 no");
    refused("1 0-1 cas 0 1 no");
    // Refused and done all the same.
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 put 2 \n 2 6-7 cas 5 3 no \n 2 8-9 get 3@9");
    // Done with an index that was no longer there.
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 put 2 \n 2 6-7 cas 5 3 yes");
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 delete \n 2 6-7 cas 5 3 yes");
    // Unanswered, but somebody saw it though its condition never held after it was asked.
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 put 2 \n 2 6-? cas 5 3 ? \n 3 8-9 get 3@9");
}

#[test]
fn the_checker_refuses_indexes_that_contradict_the_order() {
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 get 1@6");
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 put 2 \n 1 6-7 get 2@5");
    refused("1 0-1 put 1 \n 1 2-3 get 1@5 \n 1 4-5 put 2 \n 1 6-7 get 2@4");
}

#[test]
fn the_checker_holds_stale_reads_to_their_own_promise() {
    // Old values are allowed, also another server's that is behind, and the same server's after its restart.
    explained(
        "1 0-1 put 1 \n 1 2-3 put 2 \n 1 3-4 get 2@6 \n 2 5-6 stale 1.0 1@5 #5 \n 2 7-8 stale 1.0 2@6 #6",
    );
    explained("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 stale 1.0 2@6 #6 \n 2 6-7 stale 2.0 1@5 #5");
    explained("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 stale 1.0 2@6 #6 \n 2 6-7 stale 1.1 1@5 #5");
    // Backwards at one server in one life.
    refused("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 stale 1.0 2@6 #6 \n 2 6-7 stale 1.0 1@5 #6");
    refused("1 0-1 put 1 \n 1 2-3 put 2 \n 2 4-5 stale 1.0 2@6 #6 \n 2 6-7 stale 1.0 nothing #4");
    // Never written, refused, or written later.
    refused("2 4-5 stale 1.0 2@6 #6");
    refused("1 0-1 cas 3 2 no \n 2 4-5 stale 1.0 2@6 #6");
    refused("1 8-9 put 2 \n 2 4-5 stale 1.0 2@6 #6");
    // Never committed: what a stale read shows must have its place in the order.
    refused(
        "1 0-1 put 1 \n 1 2-3 get 1@5 \n 2 4-? cas 5 2 ? \n 1 5-6 put 3 \n 2 7-8 stale 1.0 2@7 #7 \n 1 9-10 get 3@6",
    );
}

#[test]
fn the_checker_is_quick_with_many_clients_and_unanswered_writes() {
    let mut text = String::new();
    for round in 0..60_u64 {
        let begin = round * 100;
        for client in 1..=8 {
            let value = round * 10 + client;
            writeln!(text, "{client} {}-{} put {value}", begin + client, begin + 60 - client).unwrap();
        }
        if round % 5 == 0 {
            writeln!(text, "9 {}-? put {}", begin + 5, round * 10 + 9).unwrap();
        }
        // Somebody in the middle wins.
        writeln!(text, "10 {}-{} get {}@{}", begin + 70, begin + 80, round * 10 + 4, begin + 60).unwrap();
    }
    explained(&text);
    let last = "10 6000-6010 get 14@160\n";
    refused(&(text + last));
}

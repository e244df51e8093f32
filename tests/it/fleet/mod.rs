//! Fleet over SSH against real sshd processes: whom we trust, how we log in, what happens to units, how a cluster comes up.

mod ended;
mod known;
mod login;
mod machine;
mod reach;
mod rights;
mod terminal;
mod together;
mod units;
mod up;

//! Tests of the birth: stories as transcripts, and a hundred thousand random histories.

mod gossip_simulation;
mod gossip_world;
mod scenarios;
mod simulation;
mod telling;
mod world;

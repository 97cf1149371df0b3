//! Clients that judge the broker from outside.
//!
//! [`client`] is a small blocking Kafka client, shared with the command line. [`history`] keeps an
//! fsynced record of what a broker acknowledged and checks it against what the broker serves. [`load`]
//! loads a broker and says what that cost it.
//! Nothing here runs inside the broker or shares a thread with it.
#![forbid(unsafe_code)]

pub mod client;
pub mod history;
pub mod limits;
pub mod load;

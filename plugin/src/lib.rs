//! The external plugin of SPIRE Server: takes the own bundle out, puts foreign ones in, and lends handshake signatures.
//!
//! | module | question |
//! |---|---|
//! | `handshake`, `host`, `broker` | how do SPIRE Server and we find each other? |
//! | `hcl`, `config`, `configurator` | what does the operator want? |
//! | `checking` | would it be understood, before SPIRE Server asks? |
//! | `publisher`, `own_bundle` | what is our own bundle? |
//! | `identity`, `signing` | who is SPIRE Server, and what may be signed in its name? |
//! | `server_api`, `watcher`, `held`, `relationships`, `keeping`, `newcomers` | what does SPIRE Server hold, who keeps it, and with whom does it federate? |
//! | `federation`, `removal`, `pending_removals` | which foreign bundle goes in, and which one out? |
//! | `link`, `rate_limit` | what does the bundle endpoint have to know, and how much may it ask for? |

pub mod arguments;
mod broker;
pub mod checking;
mod config;
mod configurator;
mod counters;
mod federation;
mod files;
mod guard;
pub mod handshake;
mod hcl;
pub mod hclog;
mod held;
mod host;
mod identity;
pub mod install;
mod keeping;
mod link;
mod newcomers;
mod outage;
mod own_bundle;
mod pending_removals;
mod publisher;
mod rate_limit;
mod relationships;
mod removal;
mod repeats;
pub mod run;
mod server_api;
mod signing;
mod socket;
mod state;
mod unix_socket;
mod watcher;

//! The mTLS pair of the walkthrough: what `helloworld-server` and `helloworld-client` are made of.
//!
//! Both take their X509-SVID and their bundles from the Workload API and speak gRPC over mutual TLS 1.3. Who a peer is
//! comes from its SVID, verified against the bundle of its own trust domain and no other; which peers may pass is an
//! [`Authorizer`](entente_bundle::Authorizer). Without a bundle there is no connection.
//!
//! A verdict on a peer holds no longer than what it was based on: `OpenConnections` looks again at every open
//! connection when the bundles change and closes those that would be refused now, and the server ends each connection at
//! an age. The client dials anew when its identity or its bundles change, before its next call.

mod accept;
mod caller;
pub mod client;
mod dial;
mod greeter;
mod listen;
mod output;
pub mod process;
pub mod server;

use std::time::Duration;

/// Both ends send a ping after this silence, and hang up when it stays unanswered for as long as [`KEEPALIVE_TIMEOUT`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

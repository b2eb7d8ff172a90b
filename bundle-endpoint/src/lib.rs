//! The standalone bundle endpoint: serves the own bundle to foreign trust domains, fetches theirs.
//!
//! Trust is configured in the plugin and arrives over the link; here stands only where to listen. [`app`] wires the parts.

pub mod address;
mod admin;
pub mod app;
pub mod cli;
pub mod config;
mod farewell;
mod federation;
mod handler;
pub mod health;
mod identity;
mod link;
pub mod logging;
mod metrics;
mod published;
mod serve;
pub mod status;
mod time;

/// What `--version` says and what both sides of the link tell each other.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Locks; a poisoned lock is taken all the same, because every critical section here leaves its data whole.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Fetching foreign bundles: who with, one fetch, and when to fetch again.

mod body;
pub mod client;
mod dial;
pub mod error;
mod follower;
mod offering;
pub mod refresher;
pub mod relationship;
mod resolve;
pub(crate) mod table;
pub mod url;
pub mod web;

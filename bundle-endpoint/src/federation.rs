//! Fetching foreign bundles: who with, one fetch, and when to fetch again.

mod body;
pub(crate) mod client;
mod dial;
pub(crate) mod error;
mod follower;
mod offering;
pub(crate) mod refresher;
pub(crate) mod relationship;
pub(crate) mod remedy;
mod resolve;
pub(crate) mod table;
mod url;
mod web;

//! The link: the plugin dials our socket and tells what to publish and what to fetch; we tell what was fetched.
//!
//! `socket` accepts, `session` runs one stream, `hub` merges what all streams say.

mod held;
mod hub;
mod offers;
mod session;
mod signing;
mod socket;
mod spire;
mod wire;

pub(crate) use held::{Held, HeldTable};
pub(crate) use hub::{Hub, LinkId, LinkInfo};
pub(crate) use offers::{Offer, OfferTable, Outcome};
pub(crate) use session::LinkService;
pub(crate) use signing::{SignError, SignQueue};
pub(crate) use socket::LinkSocket;
pub(crate) use spire::SpireState;

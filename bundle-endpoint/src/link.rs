//! The link: the plugin dials our socket and tells what to publish and what to fetch; we tell what was fetched.
//!
//! `socket` or `mutual` accepts and says who is there, `session` reads one stream and `writer` writes it, `hub` merges what all streams say.

mod brakes;
mod handshakes;
mod held;
mod hub;
mod lines;
mod mutual;
mod offers;
mod session;
mod sight;
mod signing;
mod socket;
mod spire;
mod stream;
mod troubles;
mod wire;
mod writer;

pub(crate) use held::{Held, HeldTable};
pub(crate) use hub::{Hub, LinkId, LinkInfo};
pub(crate) use mutual::MutualLink;
pub(crate) use offers::{Offer, OfferTable, Outcome};
pub(crate) use session::LinkService;
pub(crate) use signing::{SignError, SignQueue};
pub(crate) use socket::LinkSocket;
pub(crate) use spire::SpireState;
#[cfg(test)]
pub(crate) use stream::LocalPeer;
pub(crate) use stream::{LinkPeer, LocalProcess};
pub(crate) use troubles::Troubles;

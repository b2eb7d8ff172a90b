//! Everything that goes to one plugin after the hello: signing requests first, then offers, and a heartbeat in silence.

use std::sync::Arc;

use entente_proto::link::v1::endpoint_message::Message as ToPlugin;
use entente_proto::link::v1::{EndpointMessage, Heartbeat, OfferedBundle, SignRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::hub::Hub;
use super::offers::Offer;
use super::session::HEARTBEAT;

pub(super) type ToPluginSender = mpsc::Sender<Result<EndpointMessage, Status>>;

/// The writing half of one link.
pub(super) struct Writer {
    hub: Arc<Hub>,
    sender: ToPluginSender,
}

impl Writer {
    pub(super) fn new(hub: Arc<Hub>, sender: ToPluginSender) -> Self {
        Self { hub, sender }
    }

    pub(super) async fn run(self, mut requests: mpsc::Receiver<SignRequest>) {
        let mut on_offer = self.hub.offers.subscribe();
        // Zero: a new link is sent everything that is on offer.
        let mut sent = 0;
        on_offer.mark_changed();
        let mut quiet_since = Instant::now();
        loop {
            let next = tokio::select! {
                // A handshake waits for a signature; an offer can wait for that.
                biased;
                Some(request) = requests.recv() => self.send(ToPlugin::SignRequest(request)).await,
                Ok(()) = on_offer.changed() => self.send_offers(&mut sent, &mut requests).await,
                () = tokio::time::sleep_until(quiet_since + HEARTBEAT) => {
                    self.send(ToPlugin::Heartbeat(Heartbeat {})).await
                }
                else => return,
            };
            if next.is_err() {
                return;
            }
            quiet_since = Instant::now();
        }
    }

    async fn send(&self, message: ToPlugin) -> Result<(), ()> {
        self.sender.send(Ok(EndpointMessage { message: Some(message) })).await.map_err(drop)
    }

    async fn send_offers(
        &self,
        sent: &mut u64,
        requests: &mut mpsc::Receiver<SignRequest>,
    ) -> Result<(), ()> {
        for offer in self.hub.offers.after(*sent) {
            while let Ok(request) = requests.try_recv() {
                self.send(ToPlugin::SignRequest(request)).await?;
            }
            *sent = offer.id;
            self.send(ToPlugin::OfferedBundle(offered(&offer))).await?;
        }
        Ok(())
    }
}

fn offered(offer: &Offer) -> OfferedBundle {
    OfferedBundle {
        trust_domain: offer.bundle.trust_domain().to_string(),
        bundle: Some(offer.bundle.as_ref().into()),
        bundle_endpoint_url: offer.bundle_endpoint_url.clone(),
        offer_id: offer.id,
    }
}

//! Deliberate damage in mid-story, to show that its checks can fail.

use std::time::Duration;

use anyhow::Context;
use entente_bundle::Bundle;
use entente_proto::link::v1::link_client::LinkClient;
use entente_proto::link::v1::plugin_message::Message;
use entente_proto::link::v1::{Heartbeat, OwnBundle, PluginHello, PluginMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::lab::Lab;
use crate::story::Step;

/// An endpoint drops a link that has been silent for 30 seconds.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Sabotage {
    /// A program that lies links to the endpoint of cluster1.org and publishes a bundle with an authority missing.
    CorruptDocument,
    /// The endpoint of cluster1.org is killed, and nobody starts it again.
    KillEndpoint,
}

/// Lasts until it is dropped.
#[derive(Debug)]
pub(crate) struct Damage(Option<JoinHandle<()>>);

impl Drop for Damage {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Sabotage {
    pub(crate) fn comes_before(self, step: Step) -> bool {
        match self {
            Self::CorruptDocument => step == Step::Serve,
            Self::KillEndpoint => step == Step::Federate,
        }
    }
    pub(crate) async fn strike(self, lab: &mut Lab) -> anyhow::Result<Damage> {
        match self {
            Self::CorruptDocument => {
                let bundle = lab.one.api().bundle().await?;
                lab.timeline.say("\n(sabotage: a lying program links to the endpoint of cluster1.org)");
                publish(&lab.one.home().link_socket(), &mutilated(&bundle))
                    .await
                    .map(|task| Damage(Some(task)))
            }
            Self::KillEndpoint => {
                lab.timeline.say("\n(sabotage: the endpoint of cluster1.org is killed for good)");
                lab.one.kill_endpoint().await?;
                Ok(Damage(None))
            }
        }
    }
}

/// Without its first X.509 authority, and newer than the true one.
fn mutilated(bundle: &Bundle) -> Bundle {
    Bundle::new(
        bundle.trust_domain().clone(),
        bundle.x509_authorities().iter().skip(1).cloned().collect(),
        bundle.jwt_authorities().to_vec(),
        Some(bundle.sequence_number().unwrap_or(0) + 1000),
        bundle.refresh_hint(),
    )
}

async fn publish(socket: &std::path::Path, bundle: &Bundle) -> anyhow::Result<JoinHandle<()>> {
    let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await;
    let channel = channel.with_context(|| format!("cannot link to {}", socket.display()))?;
    let hello =
        PluginHello { trust_domain: bundle.trust_domain().as_str().to_owned(), version: "lie".to_owned() };
    let own = OwnBundle { bundle: Some(bundle.into()) };
    let (sender, receiver) = mpsc::channel(2);
    for message in [Message::Hello(hello), Message::OwnBundle(own)] {
        sender.send(PluginMessage { message: Some(message) }).await.context("cannot lie")?;
    }
    let answers = LinkClient::new(channel)
        .connect(ReceiverStream::new(receiver))
        .await
        .context("the link is refused")?;
    let mut answers = answers.into_inner();
    Ok(tokio::spawn(async move {
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                answer = answers.message() => if !matches!(answer, Ok(Some(_))) { return },
                _ = beat.tick() => {
                    let heartbeat = PluginMessage { message: Some(Message::Heartbeat(Heartbeat {})) };
                    if sender.send(heartbeat).await.is_err() { return }
                }
            }
        }
    }))
}

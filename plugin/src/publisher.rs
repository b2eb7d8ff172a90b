//! PublishBundle, Notify and NotifyAndAdvise: convert, compare, hand on. Nothing here waits for the network, because one slow
//! publisher holds up all of SPIRE's, and a slow or failing NotifyAndAdvise stops the server.

use std::sync::{Arc, Mutex, PoisonError};

use entente_bundle::causes::chain;
use entente_proto::spire::plugin::server::bundlepublisher::v1::bundle_publisher_server::BundlePublisher;
use entente_proto::spire::plugin::server::bundlepublisher::v1::{
    PublishBundleRequest, PublishBundleResponse,
};
use entente_proto::spire::plugin::server::notifier::v1::notifier_server::Notifier;
use entente_proto::spire::plugin::server::notifier::v1::{
    NotifyAndAdviseRequest, NotifyAndAdviseResponse, NotifyRequest, NotifyResponse,
    notify_and_advise_request, notify_request,
};
use entente_proto::spire::plugin::types;
use tonic::{Request, Response, Status};
use tracing::error;

use crate::guard::guarded;
use crate::own_bundle::{Source, Taken};
use crate::repeats::Repeats;
use crate::state::Shared;

/// Both plugin types; a process is only ever asked as one of them.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    /// SPIRE repeats its call every 30 seconds, and logs each failure itself.
    told: Arc<Mutex<Repeats>>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, told: Arc::default() }
    }

    fn take(&self, source: Source, bundle: Option<&types::Bundle>) -> Result<(), Status> {
        let config = self.shared.config().ok_or_else(|| Status::failed_precondition("not configured"))?;
        let taken = self.shared.own_bundle.take(source, bundle, &config.trust_domain);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match taken {
            Ok(taken) => {
                told.over("bundle");
                // The datastore knows which one is right.
                if taken == Taken::Older {
                    self.shared.identity_wanted.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                let error = chain(&error);
                if told.is_new("bundle", &error) {
                    error!(error, "own bundle cannot be published");
                }
                Err(Status::invalid_argument(error))
            }
        }
    }

    /// An event's bundle can be older than the datastore, so the datastore is read at once, too.
    fn notified(&self, bundle: Option<&types::Bundle>) -> Result<(), Status> {
        let taken = self.take(Source::Notify, bundle);
        self.shared.identity_wanted.notify_one();
        taken
    }
}

#[tonic::async_trait]
impl BundlePublisher for Publisher {
    async fn publish_bundle(
        &self,
        request: Request<PublishBundleRequest>,
    ) -> Result<Response<PublishBundleResponse>, Status> {
        guarded(async {
            self.take(Source::PublishBundle, request.into_inner().bundle.as_ref())?;
            Ok(Response::new(PublishBundleResponse {}))
        })
        .await
    }
}

#[tonic::async_trait]
impl Notifier for Publisher {
    async fn notify(&self, request: Request<NotifyRequest>) -> Result<Response<NotifyResponse>, Status> {
        guarded(async {
            // An event that this version does not know is none of its business.
            if let Some(notify_request::Event::BundleUpdated(event)) = request.into_inner().event {
                self.notified(event.bundle.as_ref())?;
            }
            Ok(Response::new(NotifyResponse {}))
        })
        .await
    }

    async fn notify_and_advise(
        &self,
        request: Request<NotifyAndAdviseRequest>,
    ) -> Result<Response<NotifyAndAdviseResponse>, Status> {
        // Any error would stop the server, and no bundle is worth that. `take` has logged it.
        let _ = guarded(async {
            match request.into_inner().event {
                Some(notify_and_advise_request::Event::BundleLoaded(event)) => {
                    self.notified(event.bundle.as_ref())
                }
                None => Ok(()),
            }
        })
        .await;
        Ok(Response::new(NotifyAndAdviseResponse {}))
    }
}

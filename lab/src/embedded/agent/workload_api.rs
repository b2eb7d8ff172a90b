//! The Workload API: full state at once, and again at each change, to whoever the kernel says is entitled to it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context;
use entente_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use entente_proto::workload::*;
use futures_util::Stream;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::attest::Caller;
use super::view::{Identity, View, concatenated};
use crate::embedded::document;
use crate::embedded::log::Log;

const HEADER: &str = "workload.spiffe.io";

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the newest view.
#[derive(Debug)]
pub(super) struct WorkloadApi {
    views: watch::Receiver<Arc<View>>,
    stop: CancellationToken,
    log: Log,
}

impl WorkloadApi {
    pub(super) fn new(views: watch::Receiver<Arc<View>>, stop: CancellationToken, log: Log) -> Self {
        Self { views, stop, log }
    }

    pub(super) async fn serve(self, listener: UnixListener, stop: CancellationToken) -> anyhow::Result<()> {
        tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(self))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await
            .context("workload API")
    }

    /// The security header, exactly once and exactly so, and then the caller's selectors.
    fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let mut values = request.metadata().get_all(HEADER).iter();
        if (values.next().map(|value| value.as_bytes()), values.next()) != (Some(b"true"), None) {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let info = request.extensions().get::<UdsConnectInfo>();
        let credentials = info.and_then(|info| info.peer_cred);
        let credentials = credentials.ok_or_else(|| Status::unavailable("workload attestation failed"))?;
        let log = self.log.with("uid", credentials.uid());
        let log = credentials.pid().map_or_else(|| log.clone(), |pid| log.with("pid", pid));
        log.debug("Workload attested");
        Ok(Caller::from_credentials(&credentials))
    }

    /// Sends what `answer` makes of each view, if it differs from what was sent last. An error is the last message.
    fn stream<T>(
        &self,
        caller: Caller,
        answer: fn(&View, &[&Identity]) -> Result<T, Status>,
    ) -> Response<Messages<T>>
    where
        T: Clone + PartialEq + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(1);
        let (mut views, stop, log) = (self.views.clone(), self.stop.clone(), self.log.clone());
        tokio::spawn(async move {
            let mut sent = None;
            loop {
                let view = views.borrow_and_update().clone();
                let message = match view.identities_of(&caller).as_slice() {
                    [] => {
                        log.with("registered", false).error("No identity issued");
                        Err(Status::permission_denied("no identity issued"))
                    }
                    identities => answer(&view, identities),
                };
                let is_last = message.is_err();
                if message.as_ref().ok() != sent.as_ref() || is_last {
                    sent = message.as_ref().ok().cloned();
                    if sender.send(message).await.is_err() || is_last {
                        return;
                    }
                }
                tokio::select! {
                    changed = views.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = stop.cancelled() => return,
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(messages)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Messages<X509svidResponse>>, Status> {
        Ok(self.stream(self.admit(&request)?, x509_svids))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Messages<X509BundlesResponse>>, Status> {
        Ok(self.stream(self.admit(&request)?, x509_bundles))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("the stand-in issues no JWT-SVIDs"))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Messages<JwtBundlesResponse>>, Status> {
        Ok(self.stream(self.admit(&request)?, jwt_bundles))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("the stand-in validates no JWT-SVIDs"))
    }
}

fn key_of(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}

fn x509_svids(view: &View, identities: &[&Identity]) -> Result<X509svidResponse, Status> {
    let own = concatenated(&view.own);
    let svids = identities.iter().map(|identity| X509svid {
        spiffe_id: identity.svid.spiffe_id.clone(),
        x509_svid: identity.svid.chain.clone(),
        x509_svid_key: identity.svid.key.to_vec(),
        bundle: own.clone(),
        hint: identity.entry.hint.clone(),
    });
    let federated = view.federated_for(identities).into_iter();
    let federated_bundles = federated.map(|(name, bundle)| (key_of(name), concatenated(bundle))).collect();
    Ok(X509svidResponse { svids: svids.collect(), crl: Vec::new(), federated_bundles })
}

fn x509_bundles(view: &View, identities: &[&Identity]) -> Result<X509BundlesResponse, Status> {
    let federated = view.federated_for(identities).into_iter();
    let mut bundles: HashMap<_, _> =
        federated.map(|(name, bundle)| (key_of(name), concatenated(bundle))).collect();
    bundles.insert(key_of(&view.own.trust_domain), concatenated(&view.own));
    Ok(X509BundlesResponse { crl: Vec::new(), bundles })
}

fn jwt_bundles(view: &View, identities: &[&Identity]) -> Result<JwtBundlesResponse, Status> {
    let federated = view.federated_for(identities);
    let mut bundles = HashMap::new();
    for bundle in federated.into_values().chain([&view.own]) {
        let keys =
            document::render_jwt_bundle(bundle).map_err(|error| Status::internal(error.to_string()))?;
        bundles.insert(key_of(&bundle.trust_domain), keys);
    }
    Ok(JwtBundlesResponse { bundles })
}

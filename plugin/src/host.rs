//! What go-plugin and SPIRE expect of any plugin: broker, controller, stdio, Init and Deinit.

use std::sync::Arc;
use std::time::Duration;

use entente_proto::plugin::grpc_broker_server::GrpcBroker;
use entente_proto::plugin::grpc_controller_server::GrpcController;
use entente_proto::plugin::grpc_stdio_server::GrpcStdio;
use entente_proto::plugin::{ConnInfo, Empty, StdioData};
use entente_proto::spire::service::private::init::v1::init_server::Init;
use entente_proto::spire::service::private::init::v1::{
    DeinitRequest, DeinitResponse, InitRequest, InitResponse,
};
use futures_util::stream::Pending;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::guard::guarded;
use crate::state::Shared;

/// Always implemented beside the plugin type.
const CONFIG_SERVICE: &str = "spire.service.common.config.v1.Config";

/// How long the host may be away before the plugin gives it up. It never comes back in practice.
const HOST_AWAY: Duration = Duration::from_secs(3);

/// The plugin's end, and the host's presence.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Ends the process.
    pub(crate) stop: CancellationToken,
    /// Ends the background work; Deinit does that first.
    pub(crate) background: CancellationToken,
    /// Open broker streams; `None` before the first.
    streams: Arc<watch::Sender<Option<usize>>>,
}

impl Life {
    pub(crate) fn new() -> Self {
        let stop = CancellationToken::new();
        Self { background: stop.child_token(), stop, streams: Arc::new(watch::Sender::new(None)) }
    }

    fn stream_opened(&self) -> OpenStream {
        self.streams.send_modify(|open| *open = Some(open.unwrap_or(0) + 1));
        OpenStream(self.streams.clone())
    }

    /// Second line of defence behind the parent-death signal: returns when the host is gone for good.
    pub(crate) async fn host_is_gone(&self) {
        let mut streams = self.streams.subscribe();
        // The sender lives in `self`, so no wait fails.
        while streams.wait_for(|open| *open == Some(0)).await.is_ok() {
            let is_back = streams.wait_for(|open| *open != Some(0));
            if tokio::time::timeout(HOST_AWAY, is_back).await.is_err() {
                return;
            }
        }
    }
}

/// Counts a broker stream while it lives.
struct OpenStream(Arc<watch::Sender<Option<usize>>>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.map(|open| open.saturating_sub(1)));
    }
}

/// All the small services in one.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    shared: Arc<Shared>,
    life: Life,
}

impl Host {
    pub(crate) fn new(shared: Arc<Shared>, life: Life) -> Self {
        Self { shared, life }
    }
}

#[tonic::async_trait]
impl GrpcBroker for Host {
    type StartStreamStream = Pending<Result<ConnInfo, Status>>;

    /// Answers at once, says nothing, and stays open: an end would break the host's side of every brokered service.
    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let open = self.life.stream_opened();
        let mut inbound = request.into_inner();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            // The end of the connection shows as an error here, a clean end does not happen.
            while let Ok(Some(info)) = inbound.message().await {
                shared.lent.take(&info);
            }
            drop(open);
        });
        Ok(Response::new(futures_util::stream::pending()))
    }
}

#[tonic::async_trait]
impl GrpcController for Host {
    /// Answers at once: the host waits for this without a limit.
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        debug!("host asks to stop");
        self.life.stop.cancel();
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Host {
    type StreamStdioStream = Pending<Result<StdioData, Status>>;

    /// SPIRE throws away whatever comes, so nothing does.
    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(futures_util::stream::pending()))
    }
}

#[tonic::async_trait]
impl Init for Host {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        guarded(async {
            self.shared.lent.set_names(request.into_inner().host_service_names);
            let plugin_service_names = vec![self.shared.role.service_name().into(), CONFIG_SERVICE.into()];
            Ok(Response::new(InitResponse { plugin_service_names }))
        })
        .await
    }

    async fn deinit(&self, _: Request<DeinitRequest>) -> Result<Response<DeinitResponse>, Status> {
        self.life.background.cancel();
        Ok(Response::new(DeinitResponse {}))
    }
}

//! Configure and Validate: one parser, two ways to answer. The first good configuration starts the background work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use entente_bundle::causes::chain;
use entente_proto::spire::service::common::config::v1::config_server::Config as ConfigService;
use entente_proto::spire::service::common::config::v1::{
    ConfigureRequest, ConfigureResponse, CoreConfiguration, ValidateRequest, ValidateResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use crate::config::{Config, Mistake};
use crate::federation::Federation;
use crate::guard::{guarded, supervised};
use crate::state::Shared;
use crate::{counters, files, identity, link, watcher};

/// Holds the background work that a configuration starts.
#[derive(Clone, Debug)]
pub(crate) struct Configurator {
    shared: Arc<Shared>,
    is_started: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Configurator {
    pub(crate) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self { shared, is_started: Arc::default(), stop }
    }

    fn configure(&self, request: &ConfigureRequest) -> Result<(), Status> {
        let own = trust_domain(request.core_configuration.as_ref());
        let config = Config::read(&request.hcl_configuration, own)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        announce(&config);
        self.shared.reconfigure(config);
        if !self.is_started.swap(true, Ordering::SeqCst) {
            self.start();
        }
        Ok(())
    }

    fn start(&self) {
        let federation = Federation::new(self.shared.clone());
        let shared = || self.shared.clone();
        let (counted, identified, linked, watched) = (shared(), shared(), shared(), shared());
        self.spawn("counters", move || {
            let shared = counted.clone();
            async move { counters::run(&shared).await }
        });
        self.spawn("identity", move || {
            let shared = identified.clone();
            async move { identity::run(&shared).await }
        });
        self.spawn("link", move || link::run(linked.clone(), federation.clone()));
        self.spawn("watcher", move || {
            let shared = watched.clone();
            async move { watcher::run(&shared).await }
        });
    }

    fn spawn<F>(&self, name: &'static str, work: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(supervised(name, self.stop.clone(), work));
    }
}

fn trust_domain(core: Option<&CoreConfiguration>) -> &str {
    core.map(|core| core.trust_domain.as_str()).unwrap_or_default()
}

fn announce(config: &Config) {
    info!(
        trust_domain = %config.trust_domain,
        endpoint = %config.endpoint,
        server_socket = %config.server_socket.display(),
        serve_as_server = config.serve_as_server,
        relationships = config.federates_with.len(),
        "configured"
    );
    for relationship in config.federates_with.values() {
        debug!(
            trust_domain = %relationship.trust_domain,
            bundle_endpoint_url = relationship.bundle_endpoint_url,
            mode = ?relationship.mode,
            unsigned = ?relationship.unsigned,
            "federation relationship declared"
        );
    }
    if config.managed().next().is_some() {
        info!(
            "bundle signatures are not verified by this version; the bundle endpoint's tls verification is what counts"
        );
    }
}

/// What is no reason to refuse the configuration, yet worth a note before it is used: a bootstrap bundle that is there and wrong.
fn doubts(config: &Config) -> Vec<Mistake> {
    let mut doubts = Vec::new();
    for (name, relationship) in &config.federates_with {
        let (Some(path), Some(endpoint)) =
            (&relationship.bootstrap_bundle, relationship.endpoint_trust_domain())
        else {
            continue;
        };
        match files::read_bundle(path, endpoint) {
            Err(error) if !error.is_missing() => doubts.push(Mistake {
                key: format!("federates_with {:?}: bootstrap_bundle", name.as_str()),
                text: chain(&error),
            }),
            _ => {}
        }
    }
    doubts
}

#[tonic::async_trait]
impl ConfigService for Configurator {
    async fn configure(
        &self,
        request: Request<ConfigureRequest>,
    ) -> Result<Response<ConfigureResponse>, Status> {
        guarded(async {
            Self::configure(self, &request.into_inner())?;
            Ok(Response::new(ConfigureResponse {}))
        })
        .await
    }

    /// Binds nothing, starts nothing, writes nothing: SPIRE kills the process right after it.
    async fn validate(
        &self,
        request: Request<ValidateRequest>,
    ) -> Result<Response<ValidateResponse>, Status> {
        guarded(async {
            let request = request.into_inner();
            let own = trust_domain(request.core_configuration.as_ref());
            let mistakes = match Config::read(&request.hcl_configuration, own) {
                Ok(config) => doubts(&config),
                Err(error) => error.0,
            };
            // SPIRE looks at the notes only: any note fails the validation, and no note passes it.
            let notes: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
            Ok(Response::new(ValidateResponse { valid: notes.is_empty(), notes }))
        })
        .await
    }
}

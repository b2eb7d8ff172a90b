//! One loaded plugin, from launch to unload, in the order of plugin-protocol.md 3 and 9.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA512, digest};
use entente_bundle::text::hex;
use entente_proto::plugin::grpc_broker_client::GrpcBrokerClient;
use entente_proto::plugin::grpc_controller_client::GrpcControllerClient;
use entente_proto::plugin::grpc_stdio_client::GrpcStdioClient;
use entente_proto::plugin::{ConnInfo, Empty};
use entente_proto::spire::plugin::server::bundlepublisher::v1 as publisher;
use entente_proto::spire::plugin::server::notifier::v1 as notifier;
use entente_proto::spire::plugin::types as wire;
use entente_proto::spire::service::common::config::v1 as config;
use entente_proto::spire::service::common::config::v1::config_client::ConfigClient;
use entente_proto::spire::service::private::init::v1 as init;
use entente_proto::spire::service::private::init::v1::init_client::InitClient;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::Host;
use super::handshake::Address;
use super::process::{LaunchError, Process};
use super::services::{HostServices, NAMES, Running};
use crate::embedded::config::{PluginConfig, PluginKind};
use crate::embedded::log::Log;

const CONFIG_SERVICE: &str = "spire.service.common.config.v1.Config";
/// The constant broker id of the host services.
const HOST_SERVICES_ID: u32 = 1;
const DEINIT_TIMEOUT: Duration = Duration::from_secs(10);
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Why a plugin could not be loaded or configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("failed to load plugin data: {0}")]
    Data(String),
    #[error("host services: {0}")]
    HostServices(std::io::Error),
    #[error("failed to launch plugin: {0}")]
    Launch(#[from] LaunchError),
    #[error("no supported configuration interface found")]
    NoConfigService,
    #[error("no supported plugin interface found in: {found:?}")]
    NoPluginService { found: Vec<String> },
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Rpc(#[from] Status),
}

/// A plugin that said yes to Init.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) config: PluginConfig,
    log: Log,
    trust_domain: String,
    process: Process,
    channel: Channel,
    is_configurable: bool,
    /// Of the configuration that the plugin took last, if it comes from a file.
    hash: Mutex<Option<String>>,
    /// Keeps our half of the broker stream open.
    _broker: mpsc::Sender<ConnInfo>,
    streams: [JoinHandle<()>; 2],
    services: Running,
}

impl Plugin {
    /// Launch, streams, host services, Init, matching of services.
    pub(crate) async fn load(host: &Host, plugin: &PluginConfig) -> Result<Self, PluginError> {
        let log = host.log.subsystem("catalog").with("external", true);
        let log = log.with("plugin_name", &plugin.name).with("plugin_type", plugin.kind.as_str());
        let process = Process::start(plugin, host.trampoline.as_deref(), &log).await?;
        let channel = connect(process.address.clone());
        let (broker, requests) = mpsc::channel(1);
        let streams = [hold_broker(channel.clone(), requests, log.clone()), hold_stdio(channel.clone())];
        let services = HostServices { lender: host.lender.clone() }.start();
        let services = services.map_err(PluginError::HostServices)?;
        let address = services.socket().to_string_lossy().into_owned();
        let network = "unix".to_owned();
        let info = ConnInfo { service_id: HOST_SERVICES_ID, network, address, knock: None };
        // Not waited for: ConnInfo and Init race, as in SPIRE.
        let _ = broker.try_send(info);
        let mut loaded = Self {
            config: plugin.clone(),
            log,
            trust_domain: host.trust_domain.clone(),
            process,
            channel,
            is_configurable: false,
            hash: Mutex::default(),
            _broker: broker,
            streams,
            services,
        };
        loaded.init().await?;
        Ok(loaded)
    }

    async fn init(&mut self) -> Result<(), PluginError> {
        let host_service_names = NAMES.map(str::to_owned).to_vec();
        let request = init::InitRequest { host_service_names };
        let mut client = InitClient::new(self.channel.clone());
        let found = client.init(request).await?.into_inner().plugin_service_names;
        let own = match self.config.kind {
            PluginKind::BundlePublisher => "spire.plugin.server.bundlepublisher.v1.BundlePublisher",
            PluginKind::Notifier => "spire.plugin.server.notifier.v1.Notifier",
        };
        if !found.iter().any(|name| name == own) {
            return Err(PluginError::NoPluginService { found });
        }
        self.is_configurable = found.iter().any(|name| name == CONFIG_SERVICE);
        let mut rest: Vec<_> =
            found.into_iter().filter(|name| name != own && name != CONFIG_SERVICE).collect();
        rest.sort();
        for name in rest {
            self.log.with("plugin_service", name).warn("Unsupported plugin service found");
        }
        Ok(())
    }

    fn data(&self) -> Result<String, PluginError> {
        match (&self.config.data_file, &self.config.data) {
            (Some(path), _) => {
                let content =
                    entente_bounds::read_file(path).map_err(|error| PluginError::Data(error.to_string()))?;
                String::from_utf8(content)
                    .map_err(|error| PluginError::Data(format!("{}: {error}", path.display())))
            }
            (None, data) => Ok(data.clone().unwrap_or_default()),
        }
    }

    fn core_configuration(&self) -> Option<config::CoreConfiguration> {
        Some(config::CoreConfiguration { trust_domain: self.trust_domain.clone() })
    }

    /// The first Configure, before any call of the plugin's own service.
    pub(crate) async fn configure(&self) -> Result<(), PluginError> {
        let data = self.data()?;
        let is_dynamic = self.config.data_file.is_some();
        if !self.is_configurable {
            return match data.is_empty() && !is_dynamic {
                true => Ok(()),
                false => Err(PluginError::NoConfigService),
            };
        }
        self.call_configure(data.clone()).await?;
        let mut log = self.log.with("reconfigurable", is_dynamic);
        if is_dynamic {
            let hash = hash(&data);
            log = log.with("hash", &hash);
            *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
        }
        log.info("Configured plugin");
        Ok(())
    }

    /// Reads the file again and configures if it changed; an error leaves everything as it was.
    pub(crate) async fn reconfigure(&self) {
        let Some(old) = self.hash.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let data = match self.data() {
            Ok(data) => data,
            Err(error) => return self.log.error_field(error).error("Failed to reconfigure plugin"),
        };
        let new = hash(&data);
        if new == old {
            let log = self.log.with("hash", new);
            return log.info("Plugin not reconfigured since the config is unchanged");
        }
        match self.call_configure(data).await {
            Ok(()) => {
                self.log.with("old_hash", old).with("new_hash", &new).info("Plugin reconfigured");
                *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
            }
            Err(error) => self.log.error_field(error).error("Failed to reconfigure plugin"),
        }
    }

    async fn call_configure(&self, hcl_configuration: String) -> Result<(), PluginError> {
        let core_configuration = self.core_configuration();
        let request = config::ConfigureRequest { core_configuration, hcl_configuration };
        ConfigClient::new(self.channel.clone()).configure(request).await?;
        Ok(())
    }

    /// What is wrong with the configuration; only notes count, never `valid`.
    pub(crate) async fn validate(&self) -> Vec<String> {
        let data = match self.data() {
            Ok(data) => data,
            Err(error) => return vec![format!("failed to read plugin configuration: {error}")],
        };
        if !self.is_configurable {
            return Vec::new();
        }
        let core_configuration = self.core_configuration();
        let request = config::ValidateRequest { core_configuration, hcl_configuration: data };
        match ConfigClient::new(self.channel.clone()).validate(request).await {
            Ok(response) => response.into_inner().notes,
            Err(status) if status.code() == Code::Unimplemented => Vec::new(),
            Err(status) => vec![self.prefixed(status).to_string()],
        }
    }

    /// SPIRE puts type and name before the plugin's own words.
    fn prefixed(&self, status: Status) -> PluginError {
        let kind = self.config.kind.as_str().to_lowercase();
        let text = format!("{kind}({}): {}", self.config.name, status.message());
        PluginError::Rpc(Status::new(status.code(), text))
    }

    pub(crate) async fn publish_bundle(&self, bundle: Option<wire::Bundle>) -> Result<(), PluginError> {
        let mut client = publisher::bundle_publisher_client::BundlePublisherClient::new(self.channel.clone())
            .max_encoding_message_size(MAX_MESSAGE);
        let request = publisher::PublishBundleRequest { bundle };
        client.publish_bundle(request).await.map(drop).map_err(|status| self.prefixed(status))
    }

    pub(crate) async fn bundle_updated(&self, bundle: wire::Bundle) -> Result<(), PluginError> {
        let updated = notifier::BundleUpdated { bundle: Some(bundle) };
        let event = Some(notifier::notify_request::Event::BundleUpdated(updated));
        let mut client = self.notifier();
        let answer = client.notify(notifier::NotifyRequest { event }).await;
        answer.map(drop).map_err(|status| self.prefixed(status))
    }

    pub(crate) async fn bundle_loaded(&self, bundle: wire::Bundle) -> Result<(), PluginError> {
        let loaded = notifier::BundleLoaded { bundle: Some(bundle) };
        let event = Some(notifier::notify_and_advise_request::Event::BundleLoaded(loaded));
        let mut client = self.notifier();
        let answer = client.notify_and_advise(notifier::NotifyAndAdviseRequest { event }).await;
        answer.map(drop).map_err(|status| self.prefixed(status))
    }

    fn notifier(&self) -> notifier::notifier_client::NotifierClient<Channel> {
        notifier::notifier_client::NotifierClient::new(self.channel.clone())
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The name under which errors of this plugin are logged by whoever called it.
    pub(crate) fn log_as(&self, log: &Log) -> Log {
        log.with(self.config.kind.as_str(), &self.config.name)
    }

    pub(crate) fn catalog_log(&self) -> &Log {
        &self.log
    }

    /// Deinit, Shutdown, close, two seconds, SIGKILL; then the host services go.
    pub(crate) async fn unload(self) {
        self.log.debug("Unloading plugin");
        let mut request = Request::new(init::DeinitRequest {});
        request.set_timeout(DEINIT_TIMEOUT);
        let mut client = InitClient::new(self.channel.clone());
        let answer = tokio::time::timeout(DEINIT_TIMEOUT, client.deinit(request)).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded"))) {
            Err(error) if error.code() != Code::Unimplemented => {
                self.log.error_field(PluginError::Rpc(error)).error("Failed to deinitialize plugin");
            }
            _ => self.log.debug("Plugin deinitialized"),
        }
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        tokio::select! {
            // The result does not matter: many plugins stop while they answer.
            _ = controller.shutdown(Empty {}) => {}
            () = self.process.exited() => {}
        }
        let Self { log, process, channel, streams, services, .. } = self;
        streams.iter().for_each(JoinHandle::abort);
        drop((client, controller, channel));
        if tokio::time::timeout(EXIT_TIMEOUT, process.exited()).await.is_err() {
            log.warn("plugin failed to exit gracefully");
            process.kill();
            process.exited().await;
        }
        drop(services);
        log.info("Plugin unloaded");
    }
}

/// First 16 bytes of SHA-512, in hex.
fn hash(data: &str) -> String {
    hex(digest(&SHA512, data.as_bytes()).as_ref().get(..16).unwrap_or_default())
}

/// Plain HTTP/2 with `unused` as authority. Dials when first used and again after a break.
fn connect(address: Address) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let address = address.clone();
        async move {
            Ok::<_, std::io::Error>(match address {
                Address::Unix(path) => TokioIo::new(Either::Left(UnixStream::connect(path).await?)),
                Address::Tcp(address) => TokioIo::new(Either::Right(TcpStream::connect(address).await?)),
            })
        }
    });
    Endpoint::from_static("http://unused").connect_with_connector_lazy(connector)
}

fn hold_broker(channel: Channel, requests: mpsc::Receiver<ConnInfo>, log: Log) -> JoinHandle<()> {
    tokio::spawn(async move {
        match GrpcBrokerClient::new(channel).start_stream(ReceiverStream::new(requests)).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(_)) = stream.message().await {}
            }
            Err(error) => log.error_field(error.message()).warn("Plugin broker cannot be reached"),
        }
    })
}

/// What comes is thrown away, and that there is no such service is fine.
fn hold_stdio(channel: Channel) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Ok(stream) = GrpcStdioClient::new(channel).stream_stdio(()).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    })
}

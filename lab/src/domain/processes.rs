//! The processes of a trust domain: started, waited for, killed, stopped.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use entente_bundle::Bundle;
use tokio::net::UnixStream;

use super::{Domain, config};
use crate::checks::{ensure, eventually, see};
use crate::endpoint_status::EndpointStatus;
use crate::http::{self, Request, Trust};
use crate::layout::write;
use crate::process::{self, Ended, Launch, Process};
use crate::products::Products;

/// A slow machine builds while it runs us.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(5);

impl Domain {
    /// Starts SPIRE Server with what `entente.hcl` says, and waits until it answers with its bundle.
    pub async fn start_server(&mut self) -> anyhow::Result<Bundle> {
        if self.spec.plugin.is_some() {
            self.write_plugin_data()?;
        }
        self.server = Some(self.means.spire.start_server(&self.home, &self.spec)?);
        let (api, server) = (&self.api, self.server()?);
        let what = format!("{} of {} answers", self.means.spire.kind().server(), self.trust_domain);
        let bundle = eventually(&what, START_DEADLINE, async || {
            server.check_alive()?;
            api.bundle().await
        });
        bundle.await.map_err(|error| see(error, &self.home.server_log()))
    }
    /// Starts the agent and waits until its Workload API listens. The first time it is let in by a join token.
    pub async fn start_agent(&mut self) -> anyhow::Result<()> {
        let token = if self.agent_was_in {
            None
        } else {
            write(&self.home.file("agent-bootstrap.pem"), config::pem(&self.api.bundle().await?))?;
            Some(self.api.join_token(&self.node_id()?).await?)
        };
        self.agent = Some(self.means.spire.start_agent(&self.home, &self.spec, token.as_deref())?);
        let agent = self.agent.as_ref().context("the agent was just started")?;
        let socket = self.home.agent_socket();
        let what = format!("Workload API of {} listens", self.trust_domain);
        let listens = eventually(&what, START_DEADLINE, async || {
            agent.check_alive()?;
            UnixStream::connect(&socket)
                .await
                .with_context(|| format!("cannot connect to {}", socket.display()))
        });
        listens.await.map_err(|error| see(error, &self.home.agent_log()))?;
        self.agent_was_in = true;
        Ok(())
    }
    /// Starts the bundle endpoint; whether it is ready is another question.
    pub fn start_endpoint(&mut self) -> anyhow::Result<()> {
        let ports = config::EndpointPorts {
            spiffe: self.spiffe_port,
            web: self.web_port,
            admin: self.admin_port,
            link: self.link_port,
        };
        let conf = config::endpoint_conf(&self.trust_domain, &self.home, &self.web, &ports);
        write(&self.home.endpoint_conf(), conf)?;
        let program = self.means.products.bundle_endpoint();
        let launch =
            Launch::new(format!("bundle-endpoint {}", self.trust_domain), program, self.home.endpoint_log())
                .args(["serve", "--config", &self.home.endpoint_conf().display().to_string()])
                .env("RUST_LOG", "debug,h2=info,hyper=info,hyper_util=info,tower=info,rustls=info");
        self.endpoint = Some(launch.start()?);
        Ok(())
    }
    /// Waits until the endpoint says `/ready` and at least one plugin is linked.
    pub async fn wait_until_ready(&self, deadline: Duration) -> anyhow::Result<EndpointStatus> {
        let what = format!("bundle endpoint of {} is ready and linked", self.trust_domain);
        let ready = eventually(&what, deadline, async || {
            self.endpoint()?.check_alive()?;
            let reply =
                http::ask(&Request::get(&format!("{}/ready", self.admin_url()), Trust::Default)).await?;
            ensure(reply.status == 200, || format!("/ready says {}: {}", reply.status, reply.text().trim()))?;
            let status = self.status().await?;
            ensure(status.links() > 0, || "no plugin is linked".to_owned())?;
            Ok(status)
        });
        ready.await.map_err(|error| see(error, &self.home.endpoint_log()))
    }

    /// SPIRE Server.
    pub fn server(&self) -> anyhow::Result<&Process> {
        self.server
            .as_ref()
            .with_context(|| format!("the {} was not started", self.means.spire.kind().server()))
    }
    /// The bundle endpoint.
    pub fn endpoint(&self) -> anyhow::Result<&Process> {
        self.endpoint.as_ref().context("the bundle endpoint was not started")
    }
    /// Pid of the plugin that SPIRE Server runs now.
    pub fn plugin_pid(&self) -> anyhow::Result<u32> {
        let server = self.server()?.pid();
        let plugins = process::children_named(server, Products::plugin_name());
        plugins.first().copied().with_context(|| {
            format!("the {} (pid {server}) runs no plugin", self.means.spire.kind().server())
        })
    }
    /// SIGKILL for SPIRE Server; its plugin is left to notice by itself.
    pub async fn kill_server(&mut self) -> anyhow::Result<()> {
        self.server.as_mut().context("the server was not started")?.kill().await
    }
    /// SIGKILL for the agent.
    pub async fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agent.as_mut().context("the agent was not started")?.kill().await
    }
    /// SIGKILL for the bundle endpoint.
    pub async fn kill_endpoint(&mut self) -> anyhow::Result<()> {
        self.endpoint.as_mut().context("the bundle endpoint was not started")?.kill().await
    }
    /// An error when a process has ended that nobody stopped.
    pub fn check_alive(&self) -> anyhow::Result<()> {
        for process in [&self.server, &self.agent, &self.endpoint].into_iter().flatten() {
            process.check_alive().map_err(|ended| see(ended.into(), process.log().path()))?;
        }
        Ok(())
    }
    /// Processes that have ended although nobody stopped them, each with the log that may say why.
    pub fn ended(&mut self) -> Vec<(Ended, PathBuf)> {
        let children = [&mut self.server, &mut self.agent, &mut self.endpoint].into_iter().flatten();
        let mut ended: Vec<_> = children.filter_map(Process::ended_with_log).collect();
        self.plugin = self.plugin.or_else(|| self.plugin_pid().ok());
        // A child of the server, which alone learns how it ended.
        if let Some(pid) = self.plugin.filter(|pid| !process::is_running(*pid)) {
            ended.push((Ended { name: self.plugin_name(), pid, status: None }, self.home.server_log()));
        }
        ended
    }
    /// Ends all of it in good order.
    pub async fn stop(&mut self) {
        for process in [&mut self.endpoint, &mut self.agent, &mut self.server].into_iter().flatten() {
            // Whatever does not end now is killed when it is dropped.
            let _ = process.terminate(STOP_GRACE).await;
        }
        self.drop_processes();
    }
    fn drop_processes(&mut self) {
        (self.endpoint, self.agent, self.server) = (None, None, None);
        self.home.remove_sockets();
    }
    pub(super) fn plugin_name(&self) -> String {
        format!("{} {}", Products::plugin_name(), self.trust_domain)
    }
}

/// Without the good order.
impl Drop for Domain {
    fn drop(&mut self) {
        self.drop_processes();
    }
}

//! What a bundle endpoint says about itself on `/status`.

use anyhow::Context;
use serde_json::Value;

use crate::checks::ensure;
use crate::http::{self, Request, Trust};

/// The answer of `/status`.
#[derive(Clone, Debug)]
pub struct EndpointStatus(Value);

impl EndpointStatus {
    /// Asks the admin listener at `admin_url`.
    pub async fn ask(admin_url: &str) -> anyhow::Result<Self> {
        let reply = http::ask(&Request::get(&format!("{admin_url}/status"), Trust::Default)).await?;
        ensure(reply.status == 200, || format!("/status says {}", reply.status))?;
        Ok(Self(serde_json::from_slice(&reply.body).context("/status is no JSON")?))
    }
    /// How many plugins are linked.
    pub fn links(&self) -> usize {
        self.0.get("links").and_then(Value::as_array).map_or(0, Vec::len)
    }
    /// As whom plugins are linked over mutual TLS.
    pub fn peers(&self) -> Vec<String> {
        let links = self.0.get("links").and_then(Value::as_array);
        let ids = links.into_iter().flatten().filter_map(|link| link.get("spiffe_id")?.as_str());
        ids.map(str::to_owned).collect()
    }
    /// Foreign trust domains with a relationship.
    pub fn relationships(&self) -> Vec<String> {
        let relationships = self.0.get("relationships").and_then(Value::as_array);
        let names = relationships.into_iter().flatten().filter_map(|one| one.get("trust_domain")?.as_str());
        names.map(str::to_owned).collect()
    }
}

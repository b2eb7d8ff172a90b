//! Into a registry, and back out of it by digest.

use http::HeaderValue;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use crate::blobs::{Blobs, referrers};
use crate::digest::Digest;

/// Why an image is not in the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The name is none.
    #[error("{name:?} is no name of an image: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry, or the way there.
    #[error("{step} {name} failed")]
    Registry {
        /// What was being done.
        step: &'static str,
        /// With which image.
        name: String,
        /// Why.
        source: Box<OciDistributionError>,
    },
    /// What came back is not what was asked for.
    #[error("the registry answers for {wanted} with something whose digest is {got}")]
    OtherBytes {
        /// What was asked for.
        wanted: String,
        /// What came.
        got: String,
    },
    /// A document could not be made.
    #[error("the list of what is kept beside the image cannot be made")]
    Document(#[from] std::io::Error),
}

/// A registry, and who we are to it. Plain http is spoken to registries on this very machine, as docker does, and to no other.
pub struct Registry {
    client: Client,
    access: RegistryAuth,
}

impl Registry {
    /// For images of this name's registry. Without credentials one is nobody in particular.
    pub fn of(name: &str, credentials: Option<(String, String)>) -> Result<Self, PushError> {
        let reference = parse(name)?;
        let registry = reference.resolve_registry();
        let protocol = if is_local(registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        // One request for each part: ours are small, and some registries know no other way.
        let config = ClientConfig { protocol, use_monolithic_push: true, ..ClientConfig::default() };
        let access = credentials
            .map_or(RegistryAuth::Anonymous, |(user, password)| RegistryAuth::Basic(user, password));
        Ok(Self { client: Client::new(config), access })
    }

    /// Puts the image there under its name, and what is kept beside it.
    pub async fn push(&self, name: &str, image: &Blobs, attached: &[Blobs]) -> Result<(), PushError> {
        let tagged = parse(name)?;
        let failed = |step| {
            move |source| PushError::Registry { step, name: name.to_owned(), source: Box::new(source) }
        };
        let access = self.client.auth(&tagged, &self.access, RegistryOperation::Push);
        access.await.map_err(failed("logging in for"))?;
        for item in [image].into_iter().chain(attached) {
            for part in &item.parts {
                let digest = Digest::of(part).to_string();
                if !self.client.blob_exists(&tagged, &digest).await.map_err(failed("asking for a part of"))? {
                    let pushed = self.client.push_blob(&tagged, part.clone(), &digest).await;
                    pushed.map_err(failed("pushing a part of"))?;
                }
            }
        }
        self.manifest(&tagged, &image.manifest, OCI_IMAGE_MEDIA_TYPE).await.map_err(failed("pushing"))?;
        let held = self.client.fetch_manifest_digest(&tagged, &self.access).await;
        let held = held.map_err(failed("asking for"))?;
        if held != image.digest().to_string() {
            return Err(PushError::OtherBytes { wanted: image.digest().to_string(), got: held });
        }
        for item in attached {
            let place = at(&tagged, &item.digest());
            self.manifest(&place, &item.manifest, OCI_IMAGE_MEDIA_TYPE)
                .await
                .map_err(failed("pushing beside"))?;
        }
        if attached.is_empty() {
            return Ok(());
        }
        // A registry that knows what refers to what lists it now. The others want the list under a tag made of the digest.
        let listed = self.client.pull_referrers(&at(&tagged, &image.digest()), None).await;
        let listed = listed.map_err(failed("listing what is beside"))?;
        let is_listed =
            |item: &Blobs| listed.manifests.iter().any(|entry| entry.digest == item.digest().to_string());
        if !attached.iter().all(is_listed) {
            let tag = image.digest().to_string().replace(':', "-");
            let (registry, repository) = (tagged.registry().to_owned(), tagged.repository().to_owned());
            let place = Reference::with_tag(registry, repository, tag);
            let list = referrers(attached)?;
            self.manifest(&place, &list, OCI_IMAGE_INDEX_MEDIA_TYPE)
                .await
                .map_err(failed("listing beside"))?;
        }
        Ok(())
    }

    async fn manifest(
        &self,
        place: &Reference,
        content: &[u8],
        media_type: &'static str,
    ) -> Result<(), OciDistributionError> {
        self.client
            .push_manifest_raw(place, content.to_vec(), HeaderValue::from_static(media_type))
            .await
            .map(drop)
    }

    /// Takes back a manifest and what it names, by digest alone.
    pub async fn pull(&self, name: &str, digest: &Digest) -> Result<(Vec<u8>, Vec<Vec<u8>>), PushError> {
        let tagged = parse(name)?;
        let failed =
            |source| PushError::Registry { step: "pulling", name: name.to_owned(), source: Box::new(source) };
        let place = at(&tagged, digest);
        let pulled = self.client.pull_manifest_raw(&place, &self.access, &[OCI_IMAGE_MEDIA_TYPE]);
        let (manifest, _) = pulled.await.map_err(failed)?;
        require(digest, &manifest)?;
        let parsed: oci_client::manifest::OciImageManifest =
            serde_json::from_slice(&manifest).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut parts = Vec::new();
        for part in [&parsed.config].into_iter().chain(&parsed.layers) {
            let mut content = Vec::new();
            // Checks the digest.
            self.client.pull_blob(&place, part, &mut content).await.map_err(failed)?;
            parts.push(content);
        }
        Ok((manifest.to_vec(), parts))
    }

    /// Digests of what is kept beside an image.
    pub async fn beside(&self, name: &str, image: &Digest) -> Result<Vec<String>, PushError> {
        let failed = |source| PushError::Registry {
            step: "listing beside",
            name: name.to_owned(),
            source: Box::new(source),
        };
        let listed = self.client.pull_referrers(&at(&parse(name)?, image), None).await.map_err(failed)?;
        Ok(listed.manifests.into_iter().map(|entry| entry.digest).collect())
    }
}

fn require(wanted: &Digest, content: &[u8]) -> Result<(), PushError> {
    let got = Digest::of(content);
    if got == *wanted {
        Ok(())
    } else {
        Err(PushError::OtherBytes { wanted: wanted.to_string(), got: got.to_string() })
    }
}

fn parse(name: &str) -> Result<Reference, PushError> {
    let bad = |reason: String| PushError::Name { name: name.to_owned(), reason };
    let reference: Reference =
        name.parse().map_err(|error: oci_client::ParseError| bad(error.to_string()))?;
    // Without a dot or a port the first part is taken for a folder on Docker Hub, where nobody wants to push by mistake.
    let first = name.split('/').next().unwrap_or_default();
    if reference.registry() != first {
        return Err(bad("it has to begin with the registry".to_owned()));
    }
    Ok(reference)
}

fn at(tagged: &Reference, digest: &Digest) -> Reference {
    Reference::with_digest(tagged.registry().to_owned(), tagged.repository().to_owned(), digest.to_string())
}

fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for registry in ["localhost:10000", "127.0.0.1:10000", "[::1]:10000", "localhost"] {
            assert!(is_local(registry), "{registry}");
        }
        for registry in
            ["10.10.0.1:10000", "localhost.example.org", "registry.example.org:443", "127.0.0.1.example.org"]
        {
            assert!(!is_local(registry), "{registry}");
        }
    }

    #[test]
    fn a_name_without_a_registry_is_refused() {
        for name in ["helloworld-server:0.1.0", "me/helloworld-server:0.1.0", "LOCALHOST:10000/UPPER", ""] {
            assert!(matches!(parse(name), Err(PushError::Name { .. })), "{name}");
        }
        assert!(parse("localhost:10000/helloworld-server:0.1.0").is_ok());
    }
}

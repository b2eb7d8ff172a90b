//! Service SVID: MintX509SVID, by the rules of federation.md 5.6.

use std::time::Duration;

use entente_bundle::SpiffeId;
use entente_proto::spire::api::server::svid::v1::svid_server::Svid;
use entente_proto::spire::api::server::svid::v1::{MintX509svidRequest, MintX509svidResponse};
use entente_proto::spire::api::types as wire;
use tonic::{Code, Request, Response, Status};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension};

use super::{Api, parse};
use crate::embedded::authority::SvidRequest;

/// What counts in a certificate signing request.
struct Csr {
    spiffe_id: SpiffeId,
    dns_names: Vec<String>,
    public_key: Vec<u8>,
}

#[tonic::async_trait]
impl Svid for Api {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let request = request.into_inner();
        let csr = self.read_csr(&request.csr)?;
        let lifetime = match u64::try_from(request.ttl) {
            Ok(0) | Err(_) => self.core.svid_lifetime(),
            Ok(seconds) => Duration::from_secs(seconds),
        };
        let signed = self.core.authorities.sign(&SvidRequest {
            spiffe_id: csr.spiffe_id.to_string(),
            public_key: &csr.public_key,
            dns_names: csr.dns_names,
            lifetime,
        });
        let signed =
            signed.map_err(|error| self.refuse(Code::Internal, "failed to sign X509-SVID", Some(&error)))?;
        let log = self.log.with("spiffe_id", &csr.spiffe_id);
        log.with("expiration", crate::embedded::rfc3339(signed.not_after)).debug("Signed X509 SVID");
        let svid = wire::X509svid {
            cert_chain: vec![signed.leaf],
            id: Some(parse::to_wire(&csr.spiffe_id)),
            expires_at: signed.not_after,
            hint: String::new(),
        };
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }
}

impl Api {
    fn read_csr(&self, der: &[u8]) -> Result<Csr, Status> {
        let bad = |message: &str| self.refuse(Code::InvalidArgument, message, None);
        if der.is_empty() {
            return Err(bad("missing CSR"));
        }
        let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
            return Err(bad("malformed CSR"));
        };
        if csr.verify_signature().is_err() {
            return Err(bad("failed to verify CSR signature"));
        }
        let (uris, dns_names) = names(&csr);
        let uri = match uris.as_slice() {
            [] => return Err(bad("CSR URI SAN is required")),
            [uri] => uri,
            _ => return Err(bad("only one URI SAN is expected")),
        };
        let invalid =
            |cause: String| self.refuse(Code::InvalidArgument, "CSR URI SAN is invalid", Some(&cause));
        let spiffe_id = SpiffeId::new(uri).map_err(|error| invalid(error.to_string()))?;
        parse::check_workload(&self.core.trust_domain, &spiffe_id)
            .map_err(|error| invalid(error.to_string()))?;
        if let Some(name) = dns_names.iter().find(|name| !is_dns_name(name)) {
            let message = "CSR DNS name is invalid";
            return Err(self.refuse(Code::InvalidArgument, message, Some(&format!("{name:?}"))));
        }
        if dns_names.iter().any(|name| is_covered(name, &dns_names)) {
            return Err(bad("CSR DNS name contains a wildcard that covers another non-wildcard name"));
        }
        let public_key = csr.certification_request_info.subject_pki.raw.to_vec();
        Ok(Csr { spiffe_id, dns_names, public_key })
    }
}

fn names(csr: &X509CertificationRequest<'_>) -> (Vec<String>, Vec<String>) {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    (uris, dns_names)
}

/// Labels of letters, digits and inner hyphens; the first may be a star.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let rest = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && rest.split('.').all(is_label)
}

fn is_covered(name: &str, all: &[String]) -> bool {
    let Some((first, parent)) = name.split_once('.') else { return false };
    first != "*" && all.iter().any(|other| other.strip_prefix("*.") == Some(parent))
}

//! `bundle-endpoint fetch`: one verified fetch. The document goes to stdout, what was verified to stderr.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use entente_bounds::read_file;
use entente_bundle::document::{self, DocumentLimits};
use entente_bundle::{Bundle, BundleSet, IdError, SpiffeId, TrustDomain, X509Authority};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{
    Ended, FetchArgs, FetchOutput, LogArgs, ProfileArg, block_on, failed, misused, print, show,
    start_quiet_logging,
};
use crate::admin::bundle_summary;
use crate::config::FetchConfig;
use crate::federation::client::{FetchClient, FetchLimits, FetchRequest, Fetched};
use crate::federation::error::FetchError;
use crate::federation::relationship::EndpointProfile;
use crate::federation::remedy::{self, Against};
use crate::logging::chain;
use crate::time::unix_now;

/// Stands where a trust domain is needed to read a document and none was named; `.invalid` belongs to nobody (RFC 6761).
const UNNAMED: &str = "unnamed.invalid";

pub(super) fn run(args: &FetchArgs, log: &LogArgs) -> Ended {
    fetch(args, log).unwrap_or_else(|ended| ended)
}

fn fetch(args: &FetchArgs, log: &LogArgs) -> Result<Ended, Ended> {
    start_quiet_logging(log)?;
    let (profile, bundles) = profile(args)?;
    let domain = match (&args.trust_domain, profile.authenticating_domain()) {
        (Some(name), _) => {
            TrustDomain::from_name_or_id(name).map_err(|e| misused(format!("--trust-domain: {e}")))?
        }
        (None, Some(domain)) => domain.clone(),
        (None, None) => TrustDomain::new(UNNAMED).map_err(misused)?,
    };
    let request = FetchRequest {
        trust_domain: domain,
        url: args.url.clone(),
        profile,
        follow_redirects: args.follow_redirects,
    };
    let limits = FetchConfig::default();
    let client = FetchClient::new(FetchLimits {
        request_timeout: args.timeout.into(),
        max_bytes: limits.max_bytes,
        max_keys: limits.max_keys,
    });
    let fetched =
        block_on(client.fetch(&request, &bundles))?.map_err(|error| refused(&error, args, &request))?;
    let named = args.trust_domain.is_some() || request.trust_domain.as_str() != UNNAMED;
    print_fetched(&fetched, named, args.output).map_err(failed)?;
    Ok(Ended::Well)
}

fn refused(error: &FetchError, args: &FetchArgs, request: &FetchRequest) -> Ended {
    match error {
        FetchError::Url(error) => misused(chain(error)),
        FetchError::WebRoots { detail } if let Some(file) = &args.ca_file => {
            misused(format!("--ca-file {}: {detail}", file.display()))
        }
        _ => {
            failed(format!("refused ({}): {}{}", error.reason(), chain(error), way_out(error, args, request)))
        }
    }
}

fn way_out(error: &FetchError, args: &FetchArgs, request: &FetchRequest) -> String {
    let (Some(file), Some(domain)) = (&args.bundle, request.profile.authenticating_domain()) else {
        return String::new();
    };
    remedy::told(error, None, domain, Against::File(&file.display().to_string()))
}

fn profile(args: &FetchArgs) -> Result<(EndpointProfile, BundleSet), Ended> {
    match args.profile {
        ProfileArg::HttpsWeb => {
            if args.endpoint_spiffe_id.is_some() || args.bundle.is_some() {
                return Err(misused("--endpoint-spiffe-id and --bundle are for --profile https_spiffe"));
            }
            let ca_certificates = match &args.ca_file {
                Some(file) => Some(String::from_utf8_lossy(&read(file)?).into_owned()),
                None => None,
            };
            Ok((EndpointProfile::HttpsWeb { ca_certificates }, BundleSet::default()))
        }
        ProfileArg::HttpsSpiffe => {
            let (Some(id), Some(file)) = (&args.endpoint_spiffe_id, &args.bundle) else {
                return Err(misused("--profile https_spiffe needs --endpoint-spiffe-id and --bundle"));
            };
            if args.ca_file.is_some() {
                return Err(misused("--ca-file is for --profile https_web"));
            }
            let endpoint_spiffe_id = SpiffeId::with_path(id).map_err(|error| {
                let hint = match &error {
                    IdError::NoPath { trust_domain } => {
                        format!("; such as {}", trust_domain.spire_server_id())
                    }
                    _ => String::new(),
                };
                misused(format!("--endpoint-spiffe-id: {error}{hint}"))
            })?;
            let bundle = bundle_from(file, endpoint_spiffe_id.trust_domain())?;
            Ok((EndpointProfile::HttpsSpiffe { endpoint_spiffe_id }, BundleSet::from_iter([bundle])))
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Ended> {
    read_file(file).map_err(misused)
}

/// A SPIFFE document begins with a brace, PEM never does.
fn bundle_from(file: &Path, trust_domain: &TrustDomain) -> Result<Bundle, Ended> {
    let bytes = read(file)?;
    let refused = |why: String| misused(format!("{} is no bundle of {trust_domain}: {why}", file.display()));
    if bytes.trim_ascii_start().starts_with(b"{") {
        let parsed = document::parse(&bytes, trust_domain, &DocumentLimits::default());
        return Ok(parsed.map_err(|error| refused(chain(&error)))?.bundle);
    }
    let mut authorities = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        authorities
            .push(X509Authority::from_der(&certificate, false).map_err(|error| refused(chain(&error)))?);
    }
    if authorities.is_empty() {
        return Err(refused("it is neither a SPIFFE document nor PEM certificates".into()));
    }
    Ok(Bundle::new(trust_domain.clone(), authorities, Vec::new(), None, None))
}

fn print_fetched(fetched: &Fetched, named: bool, output: FetchOutput) -> std::io::Result<()> {
    let summary = summary(fetched, named);
    match output {
        FetchOutput::Document => {
            std::io::stderr().write_all(summary.as_bytes())?;
            print(&fetched.text)?;
            if fetched.text.ends_with(b"\n") { Ok(()) } else { print(b"\n") }
        }
        FetchOutput::Summary => print(summary.as_bytes()),
    }
}

fn summary(fetched: &Fetched, named: bool) -> String {
    let mut text = String::new();
    let bundle = &fetched.parsed.bundle;
    let domain = if named { bundle.trust_domain().as_str() } else { "not named (--trust-domain)" };
    // Cannot fail, here and below: writing to a String never does.
    let _ = writeln!(text, "trust domain {domain}");
    let _ = writeln!(text, "fetched from {}", fetched.url);
    if let Some(presented) = &fetched.presented {
        let _ = writeln!(text, "presented and verified {presented}");
    }
    show::bundle(&mut text, "", &bundle_summary(bundle, unix_now()));
    for skipped in &fetched.parsed.skipped {
        let _ = writeln!(text, "skipped element {}: {}", skipped.index, skipped.reason);
    }
    text
}

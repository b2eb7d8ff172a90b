//! The web authority of the lab, and the certificate that bundle endpoints present as `https_web`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::layout::{Home, write, write_private};

/// Files of one endpoint's web identity.
#[derive(Clone, Debug)]
pub struct WebCertificate {
    /// Authority, for `curl --cacert`.
    pub ca_file: PathBuf,
    /// Certificate for 127.0.0.1 and localhost.
    pub certificate_file: PathBuf,
    /// Its key.
    pub private_key_file: PathBuf,
}

impl WebCertificate {
    /// Makes authority, certificate and key, and writes them.
    pub fn create(home: &Home) -> anyhow::Result<Self> {
        let files = Self {
            ca_file: home.file("web-ca.crt"),
            certificate_file: home.file("web.crt"),
            private_key_file: home.file("web.key"),
        };
        let (ca, leaf, key) = mint().context("cannot make a web certificate")?;
        write(&files.ca_file, ca)?;
        write(&files.certificate_file, leaf)?;
        write_private(&files.private_key_file, key)?;
        Ok(files)
    }
}

/// PEM of authority, leaf and the leaf's key.
fn mint() -> Result<(String, String, String), rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "Entente lab web authority");
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()])?;
    leaf.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    leaf.distinguished_name.push(DnType::CommonName, "Entente lab bundle endpoint");
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok((ca_certificate.pem(), certificate.pem(), key.serialize_pem()))
}

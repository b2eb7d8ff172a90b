//! Certificates of a cluster as kubeadm would make them, for a month: real RBAC needs real names.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::place::{ClusterFolder, Place};
use crate::layout::{write, write_private};

const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Who may call the API server with a certificate of its own.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "system:masters", "admin"),
    ("controller-manager", "", "system:kube-controller-manager"),
    ("scheduler", "", "system:kube-scheduler"),
    ("proxy", "", "system:kube-proxy"),
    ("kubelet", "system:nodes", ""),
];

/// Writes everything into the cluster's `pki` folder.
pub(super) fn make(place: &Place, folder: &ClusterFolder) -> anyhow::Result<()> {
    let pki = folder.path().join("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
    let authority = Authority::new(place)?;
    write(&folder.pki("ca.crt"), &authority.certificate)?;
    write_private(&folder.pki("ca.key"), authority.issuer.key().serialize_pem())?;

    let sans = server_names(place)?;
    authority.leaf(folder, "apiserver", "", "kube-apiserver", sans)?;
    authority.leaf(
        folder,
        "apiserver-kubelet",
        "system:masters",
        "kube-apiserver-kubelet-client",
        Vec::new(),
    )?;
    authority.leaf(folder, "front-proxy", "", "front-proxy-client", Vec::new())?;
    for (name, organisation, common_name) in USERS {
        let own = format!("system:node:{}", place.node);
        let common_name = if common_name.is_empty() { &own } else { common_name };
        let leaf = authority.leaf(folder, name, organisation, common_name, Vec::new())?;
        let text = kubeconfig(place, name, &authority.certificate, &leaf);
        write_private(&folder.pki(&format!("{name}.kubeconfig")), text)?;
    }
    let service_accounts = KeyPair::generate().context("cannot make the key for service accounts")?;
    write_private(&folder.pki("sa.key"), service_accounts.serialize_pem())?;
    write(&folder.pki("sa.pub"), service_accounts.public_key_pem())
}

fn server_names(place: &Place) -> anyhow::Result<Vec<SanType>> {
    let addresses = [place.address, place.api_service, std::net::Ipv4Addr::LOCALHOST];
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut sans = addresses.map(|address| SanType::IpAddress(IpAddr::V4(address))).to_vec();
    for name in names {
        sans.push(SanType::DnsName(name.try_into().context("a name for the API server's certificate")?));
    }
    Ok(sans)
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

struct Leaf {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(place: &Place) -> anyhow::Result<Self> {
        let mut params = params("", &format!("{}-ca", place.cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("cannot make the cluster's key")?;
        let certificate = params.self_signed(&key).context("cannot make the cluster's authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }
    /// Writes `NAME.crt` and `NAME.key`.
    fn leaf(
        &self,
        folder: &ClusterFolder,
        name: &str,
        organisation: &str,
        common_name: &str,
        sans: Vec<SanType>,
    ) -> anyhow::Result<Leaf> {
        let mut params = params(organisation, common_name);
        params.subject_alt_names = sans;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().with_context(|| format!("cannot make the key of {name}"))?;
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate =
            certificate.with_context(|| format!("cannot make the certificate of {name}"))?.pem();
        let leaf = Leaf { certificate, key: key.serialize_pem() };
        write(&folder.pki(&format!("{name}.crt")), &leaf.certificate)?;
        write_private(&folder.pki(&format!("{name}.key")), &leaf.key)?;
        Ok(leaf)
    }
}

fn params(organisation: &str, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    if !organisation.is_empty() {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + LIFETIME).into();
    params
}

fn kubeconfig(place: &Place, user: &str, authority: &str, leaf: &Leaf) -> String {
    let Place { cluster, address, api_port, .. } = place;
    let encoded = |text: &str| STANDARD.encode(text);
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
  - name: {cluster}
    cluster: {{server: "https://{address}:{api_port}", certificate-authority-data: {authority}}}
users:
  - name: {cluster}-{user}
    user: {{client-certificate-data: {certificate}, client-key-data: {key}}}
contexts:
  - name: {cluster}
    context: {{cluster: {cluster}, user: {cluster}-{user}}}
current-context: {cluster}
"#,
        authority = encoded(authority),
        certificate = encoded(&leaf.certificate),
        key = encoded(&leaf.key),
    )
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::parse_x509_pem;

    use super::super::place::CLUSTERS;
    use super::*;

    #[test]
    fn certificates_carry_the_names_that_rbac_goes_by() {
        let run = tempfile::tempdir().expect("a folder");
        let [place, _] = &CLUSTERS;
        let folder = ClusterFolder::of(run.path(), place);
        make(place, &folder).expect("certificates");
        let subject = |name: &str| {
            let pem = std::fs::read(folder.pki(name)).expect("a file");
            let (_, pem) = parse_x509_pem(&pem).expect("PEM");
            pem.parse_x509().expect("a certificate").subject().to_string()
        };
        assert_eq!(subject("admin.crt"), "O=system:masters, CN=admin");
        assert_eq!(subject("kubelet.crt"), "O=system:nodes, CN=system:node:cluster1-node");
        assert_eq!(subject("controller-manager.crt"), "CN=system:kube-controller-manager");
        let config = std::fs::read_to_string(folder.kubeconfig()).expect("a file");
        assert!(config.contains("https://10.10.0.11:6443"), "{config}");
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let run = tempfile::tempdir().expect("a folder");
        let [place, _] = &CLUSTERS;
        let folder = ClusterFolder::of(run.path(), place);
        make(place, &folder).expect("certificates");
        for name in ["ca.key", "sa.key", "apiserver.key", "admin.kubeconfig"] {
            let mode = std::fs::metadata(folder.pki(name)).expect("a file").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}");
        }
    }
}

//! Whole TLS handshakes in memory, without sockets: what *both* sides see, and that rotation needs no new configuration.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use entente_bundle::testing::{SvidBuilder, TestAuthority, TestSvid};
use entente_bundle::tls::{self, CertificateSlot, SvidVerifier};
use entente_bundle::{Authorizer, Bundle, BundleSet, SpiffeId, SvidError};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ConnectionCommon, Error, HandshakeKind, NamedGroup,
    ProtocolVersion, ServerConfig, ServerConnection, SideData, SignatureScheme,
};
use rustls_pki_types::ServerName;

fn id(uri: &str) -> SpiffeId {
    SpiffeId::new(uri).unwrap()
}

fn slot(svid: &TestSvid) -> Arc<CertificateSlot> {
    let slot = Arc::new(CertificateSlot::default());
    slot.set(svid.certified_key());
    slot
}

fn bundles(held: &[&TestAuthority]) -> Arc<BundleSet> {
    Arc::new(held.iter().map(|authority| authority.bundle()).collect())
}

/// One side of a connection: its configuration's inputs.
struct Side {
    bundles: Arc<BundleSet>,
    slot: Arc<CertificateSlot>,
    authorizer: Authorizer,
}

impl Side {
    fn new(svid: &TestSvid, held: &[&TestAuthority]) -> Self {
        Self { bundles: bundles(held), slot: slot(svid), authorizer: Authorizer::AnyInBundles }
    }

    fn allowing(mut self, uri: &str) -> Self {
        self.authorizer = Authorizer::exact(id(uri));
        self
    }

    fn verifier(&self) -> Arc<SvidVerifier> {
        SvidVerifier::new(self.bundles.clone(), self.authorizer.clone())
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(tls::client_config(self.verifier(), Some(self.slot.clone()), &[b"h2"]).unwrap())
    }

    fn mutual_client(&self) -> Arc<ClientConfig> {
        Arc::new(tls::mutual_client_config(self.verifier(), self.slot.clone(), &[b"h2"]).unwrap())
    }

    fn server(&self) -> Arc<ServerConfig> {
        Arc::new(tls::mutual_server_config(self.verifier(), self.slot.clone(), &[b"h2"]).unwrap())
    }
}

/// What a handshake ended in on each side.
struct Outcome {
    client: Result<ClientConnection, Error>,
    server: Result<ServerConnection, Error>,
}

impl Outcome {
    fn succeeded(self) -> (ClientConnection, ServerConnection) {
        (self.client.unwrap(), self.server.unwrap())
    }

    /// The client refused: its reason, and the alert that the server saw.
    fn refused_by_client(self) -> (SvidError, AlertDescription) {
        (refusal(&self.client.unwrap_err()), alert(&self.server.unwrap_err()))
    }

    /// The server refused: its reason, and the alert that the client saw.
    fn refused_by_server(self) -> (SvidError, AlertDescription) {
        (refusal(&self.server.unwrap_err()), alert(&self.client.unwrap_err()))
    }
}

fn refusal(error: &Error) -> SvidError {
    // The way it comes out of an asynchronous TLS stream.
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error.clone());
    SvidError::find_in(&error).cloned().unwrap_or_else(|| panic!("not a refusal: {error}"))
}

fn alert(error: &Error) -> AlertDescription {
    match error {
        Error::AlertReceived(alert) => *alert,
        other => panic!("not an alert: {other}"),
    }
}

fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("some-host.test").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    // The last round carries what a side says after its own part is done: in TLS 1.3 a refused client learns of it then.
    for _ in 0..6 {
        let upward = written(&mut client);
        server_error = server_error.or(given(&mut server, &upward));
        let downward = written(&mut server);
        client_error = client_error.or(given(&mut client, &downward));
    }
    Outcome { client: client_error.map_or(Ok(client), Err), server: server_error.map_or(Ok(server), Err) }
}

fn written<D: SideData>(connection: &mut ConnectionCommon<D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn given<D: SideData>(connection: &mut ConnectionCommon<D>, mut bytes: &[u8]) -> Option<Error> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        if let Err(error) = connection.process_new_packets() {
            return Some(error);
        }
    }
    None
}

#[test]
fn a_foreign_root_that_signed_the_wrong_domain_is_refused_by_both_sides() {
    let (a, b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let web = Side::new(&a.svid("/web").build(), &[&a, &b]);
    let forger = Side::new(&b.svid("/web").with_id("spiffe://a.test/web").build(), &[&a, &b]);
    let refused = (
        SvidError::UnknownIssuer { presented: id("spiffe://a.test/web") },
        AlertDescription::CertificateUnknown,
    );
    assert_eq!(shake(&web.client(), &forger.server()).refused_by_client(), refused);
    assert_eq!(shake(&forger.client(), &web.server()).refused_by_server(), refused);
}

#[test]
fn a_valid_svid_of_another_workload_is_refused_by_both_sides() {
    let a = TestAuthority::new("a.test");
    let strict = Side::new(&a.svid("/web").build(), &[&a]).allowing("spiffe://a.test/db");
    let other = Side::new(&a.svid("/other").build(), &[&a]);
    let refused = (
        SvidError::NotAuthorized { presented: id("spiffe://a.test/other") },
        AlertDescription::CertificateUnknown,
    );
    assert_eq!(shake(&strict.client(), &other.server()).refused_by_client(), refused);
    assert_eq!(shake(&other.client(), &strict.server()).refused_by_server(), refused);
}

#[test]
fn each_kind_of_bad_svid_is_refused_by_both_sides() {
    let refused = |reason: &str, fault: &dyn Fn(SvidBuilder<'_>) -> TestSvid| {
        let a = TestAuthority::new("a.test");
        let good = Side::new(&a.svid("/web").build(), &[&a]);
        let bad = Side::new(&fault(a.svid("/web")), &[&a]);
        assert_eq!(shake(&good.client(), &bad.server()).refused_by_client().0.reason(), reason);
        assert_eq!(shake(&bad.client(), &good.server()).refused_by_server().0.reason(), reason);
    };
    refused("expired", &|svid| svid.expired().build());
    refused("not_valid_yet", &|svid| svid.not_valid_yet().build());
    refused("leaf_is_ca", &|svid| svid.with_ca_flag().build());
    refused("leaf_cert_sign", &|svid| svid.with_cert_sign().build());
    refused("leaf_crl_sign", &|svid| svid.with_crl_sign().build());
    refused("uri_count", &|svid| svid.with_two_uris().build());
    refused("uri_count", &|svid| svid.with_no_uri().with_dns("some-host.test").build());
    refused("no_path", &|svid| svid.without_path().build());
    refused("no_bundle", &|svid| svid.with_id("spiffe://b.test/web").build());
}

#[test]
fn two_domains_that_hold_each_others_bundle_shake_hands() {
    let (a, b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let server = Side::new(&a.svid("/web").build(), &[&a, &b]).allowing("spiffe://b.test/client");
    let client = Side::new(&b.svid("/client").build(), &[&a, &b]).allowing("spiffe://a.test/web");
    let (client, server) = shake(&client.client(), &server.server()).succeeded();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.server_name(), None, "an SVID names no host, so none is sent");
    let group = client.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn no_handshake_is_ever_a_resumption() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let public =
        |versions| Arc::new(tls::public_server_config(side.slot.clone(), versions, &[b"h2"]).unwrap());
    // A client of somebody else, that would resume if our servers let it.
    let mut eager = (*side.client()).clone();
    eager.resumption = Resumption::in_memory_sessions(16);
    let clients = [side.client(), Arc::new(eager)];
    let servers = [side.server(), public(&[&TLS12]), public(&[&TLS13])];
    let (ours, _) = shake(&side.mutual_client(), &servers[0]).succeeded();
    assert_eq!(ours.handshake_kind(), Some(HandshakeKind::Full));
    for (client, server) in
        clients.iter().flat_map(|client| servers.iter().map(move |server| (client, server)))
    {
        for _ in 0..2 {
            let (client, server) = shake(client, server).succeeded();
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
    // The test can tell: the same eager client does resume with a server of rustls' own defaults.
    let mut lax = (*servers[1]).clone();
    lax.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let lax = Arc::new(lax);
    shake(&clients[1], &lax).succeeded();
    let (client, _) = shake(&clients[1], &lax).succeeded();
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_rotation_of_keys_and_bundles_counts_from_the_next_handshake() {
    let (old, new) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
    let server = Side::new(&old.svid("/web").build(), &[&old]);
    let client = Side::new(&old.svid("/client").build(), &[&old]);
    let (client_config, server_config) = (client.client(), server.server());
    let hold = |side: &Side, bundle: Bundle| {
        side.bundles.replace(BTreeMap::from([(bundle.trust_domain().clone(), Arc::new(bundle))]));
    };
    shake(&client_config, &server_config).succeeded();

    server.slot.set(new.svid("/web").build().certified_key());
    let (error, _) = shake(&client_config, &server_config).refused_by_client();
    assert_eq!(error.reason(), "unknown_issuer");

    let both = vec![old.x509_authority(), new.x509_authority()];
    hold(&client, Bundle::new(old.trust_domain().clone(), both, vec![], None, None));
    shake(&client_config, &server_config).succeeded();

    hold(&server, new.bundle());
    let (error, _) = shake(&client_config, &server_config).refused_by_server();
    assert_eq!(error.reason(), "unknown_issuer");

    client.slot.set(new.svid("/client").build().certified_key());
    shake(&client_config, &server_config).succeeded();
}

#[test]
fn a_domain_that_is_no_longer_held_is_refused_from_the_next_handshake() {
    let (a, b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let server = Side::new(&a.svid("/web").build(), &[&a, &b]);
    let client = Side::new(&b.svid("/client").build(), &[&a]);
    let (client_config, server_config) = (client.client(), server.server());
    shake(&client_config, &server_config).succeeded();
    server.bundles.replace(BTreeMap::from([(a.trust_domain().clone(), Arc::new(a.bundle()))]));
    let (error, _) = shake(&client_config, &server_config).refused_by_server();
    assert_eq!(error.reason(), "no_bundle");
    assert_eq!(error.presented(), Some(&id("spiffe://b.test/client")));
}

#[test]
fn a_server_with_nothing_to_present_ends_the_handshake_with_an_alert() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let client = side.client();
    let empty = Side::new(&a.svid("/web").build(), &[&a]);
    empty.slot.clear();
    let outcome = shake(&client, &empty.server());
    assert!(outcome.server.is_err());
    assert_eq!(alert(&outcome.client.unwrap_err()), AlertDescription::AccessDenied);
}

#[test]
fn a_mutual_server_refuses_a_client_without_an_svid() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let anonymous = Arc::new(tls::client_config(side.verifier(), None, &[]).unwrap());
    let outcome = shake(&anonymous, &side.server());
    assert_eq!(outcome.server.unwrap_err(), Error::NoCertificatesPresented);
    assert_eq!(alert(&outcome.client.unwrap_err()), AlertDescription::CertificateRequired);
}

#[test]
fn neither_end_of_a_mutual_handshake_speaks_an_older_tls() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let old_server = Arc::new(tls::public_server_config(side.slot.clone(), &[&TLS12], &[b"h2"]).unwrap());
    let outcome = shake(&side.mutual_client(), &old_server);
    assert!(matches!(outcome.server.unwrap_err(), Error::PeerIncompatible(_)));
    assert_eq!(alert(&outcome.client.unwrap_err()), AlertDescription::ProtocolVersion);

    let old_client = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(side.verifier())
        .with_client_cert_resolver(side.slot.clone());
    let outcome = shake(&Arc::new(old_client), &side.server());
    assert!(matches!(outcome.server.unwrap_err(), Error::PeerIncompatible(_)));
    assert_eq!(alert(&outcome.client.unwrap_err()), AlertDescription::ProtocolVersion);

    let (client, _) = shake(&side.mutual_client(), &side.server()).succeeded();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

/// Has nothing to show, and remembers that somebody asked.
#[derive(Debug, Default)]
struct ShowsNothing {
    was_asked: AtomicBool,
}

impl ResolvesClientCert for ShowsNothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_mutual_client_asks_its_resolver_what_to_show_and_shows_nothing_else() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let resolver = Arc::new(ShowsNothing::default());
    let client = tls::mutual_client_config(side.verifier(), resolver.clone(), &[b"h2"]).unwrap();
    let outcome = shake(&Arc::new(client), &side.server());
    assert!(resolver.was_asked.load(Ordering::Relaxed));
    assert!(matches!(outcome.server.unwrap_err(), Error::NoCertificatesPresented));
}

#[test]
fn the_public_server_asks_for_no_certificate_and_speaks_the_versions_it_is_told() {
    let a = TestAuthority::new("a.test");
    let side = Side::new(&a.svid("/web").build(), &[&a]);
    let public = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        Arc::new(tls::public_server_config(side.slot.clone(), versions, &[b"h2", b"http/1.1"]).unwrap())
    };
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let (client, server) = shake(&side.client(), &public(&[version])).succeeded();
        assert_eq!(client.protocol_version(), Some(expected));
        assert!(server.peer_certificates().is_none(), "the client had one to show and was not asked");
    }
    let forger = Side::new(&a.svid("/web").build(), &[&TestAuthority::new("a.test")]);
    let (error, _) = shake(&forger.client(), &public(&[&TLS12])).refused_by_client();
    assert_eq!(error.reason(), "unknown_issuer");
}

#[test]
fn a_key_that_does_not_belong_to_the_leaf_cannot_be_presented() {
    let a = TestAuthority::new("a.test");
    let (one, other) = (a.svid("/web").build(), a.svid("/web").build());
    assert!(tls::certified_key(one.chain.clone(), other.pkcs8).is_err());
    assert!(tls::certified_key(one.chain.clone(), vec![1, 2, 3]).is_err());
    assert!(tls::certified_key(vec![], one.pkcs8.clone()).is_err());
    assert!(tls::certified_key(one.chain, one.pkcs8).is_ok());
}

#[test]
fn a_slot_says_whether_it_has_something_to_present_and_prints_no_key() {
    let a = TestAuthority::new("a.test");
    let slot = slot(&a.svid("/web").build());
    assert!(slot.has_certs());
    assert_eq!(format!("{slot:?}"), "CertificateSlot { filled: true }");
    slot.clear();
    assert!(!slot.has_certs() && slot.current().is_none());
}

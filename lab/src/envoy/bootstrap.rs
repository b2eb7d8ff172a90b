//! Envoy's configuration: mutual TLS whose certificate and bundles come from SPIRE's agent under the names that Istio asks for,
//! and whose peer has exactly one SPIFFE ID.

use std::net::SocketAddr;
use std::path::Path;

use entente_bundle::SpiffeId;
use serde_json::{Value, json};

use super::Role;

const TYPE: &str = "type.googleapis.com/envoy";
/// Envoy's own certificate, in the agent's `default_svid_name`.
pub(super) const SVID: &str = "default";
/// All bundles that it is to believe, one per trust domain, in the agent's `default_all_bundles_name`.
pub(super) const BUNDLES: &str = "ROOTCA";
/// One line for each connection and each request: who was let in, and why somebody was not.
const ACCESS_LOG: &str = "code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% \
    peer=%DOWNSTREAM_PEER_URI_SAN% own=%DOWNSTREAM_LOCAL_URI_SAN% tls=%DOWNSTREAM_TLS_VERSION% \
    refused=\"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\" upstream_peer=%UPSTREAM_PEER_URI_SAN% \
    upstream_refused=\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"\n";

/// The whole configuration of one proxy.
pub(super) fn bootstrap(
    id: &SpiffeId,
    role: &Role<'_>,
    agent_socket: &Path,
    admin: SocketAddr,
    listen: SocketAddr,
) -> Value {
    let (downstream, upstream, target) = match role {
        Role::Inbound { application, allowed } => (Some(downstream_tls(allowed)), None, *application),
        Role::Outbound { upstream, server } => (None, Some(upstream_tls(server)), *upstream),
    };
    json!({
        "node": { "id": id.to_string(), "cluster": "lab" },
        "admin": { "address": socket_address(admin) },
        "static_resources": {
            "listeners": [listener(listen, downstream)],
            "clusters": [agent(agent_socket), target_cluster(target, upstream)],
        },
    })
}

/// The server's side of mutual TLS.
fn downstream_tls(allowed: &SpiffeId) -> Value {
    json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": tls_context(allowed),
        },
    })
}

/// The client's side of mutual TLS. It keeps no sessions, so that each connection is a whole handshake.
fn upstream_tls(server: &SpiffeId) -> Value {
    json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "max_session_keys": 0,
            "common_tls_context": tls_context(server),
        },
    })
}

/// As Istio builds it: the ID from the configuration, certificate and bundles from the agent.
fn tls_context(peer: &SpiffeId) -> Value {
    json!({
        // Left to itself, Envoy as a client stops at 1.2.
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificate_sds_secret_configs": [secret(SVID)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "exact": peer.to_string() } },
                ],
            },
            "validation_context_sds_secret_config": secret(BUNDLES),
        },
    })
}

fn secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "spire_agent" } }],
            },
        },
    })
}

fn listener(listen: SocketAddr, tls: Option<Value>) -> Value {
    let manager = json!({
        "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "lab",
        "access_log": [access_log()],
        // What the application learns about its caller.
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": { "uri": true },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{TYPE}.extensions.filters.http.router.v3.Router") },
        }],
        "route_config": {
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": { "cluster": "target", "retry_policy": retry_policy() },
                }],
            }],
        },
    });
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    if let (Some(tls), Some(chain)) = (tls, chain.as_object_mut()) {
        chain.insert("transport_socket".to_owned(), tls);
    }
    // The listener's own log has the handshakes that failed.
    json!({
        "name": "lab",
        "address": socket_address(listen),
        "access_log": [access_log()],
        "filter_chains": [chain],
    })
}

/// For the moment between an authority's taint and a new SVID: SPIRE's agent then gives a proxy its own domain's bundle alone, and
/// whoever calls from another one is refused.
fn retry_policy() -> Value {
    json!({
        "retry_on": "connect-failure,reset",
        "num_retries": 3,
        "retry_back_off": { "base_interval": "0.2s", "max_interval": "1s" },
    })
}

fn access_log() -> Value {
    json!({
        "name": "stdout",
        "typed_config": {
            "@type": format!("{TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": { "text_format_source": { "inline_string": ACCESS_LOG } },
        },
    })
}

/// SPIRE's agent, which knows Envoy by the program that it runs.
fn agent(socket: &Path) -> Value {
    let mut agent = cluster("spire_agent", &json!({ "pipe": { "path": socket } }));
    if let Some(agent) = agent.as_object_mut() {
        agent.insert(
            "typed_extension_protocol_options".to_owned(),
            protocol(&json!({
                "explicit_http_config": { "http2_protocol_options": {} },
            })),
        );
    }
    agent
}

/// One request for each connection: what is believed is believed by the newest bundles.
fn target_cluster(target: SocketAddr, tls: Option<Value>) -> Value {
    let mut cluster = cluster("target", &socket_address(target));
    if let Some(fields) = cluster.as_object_mut() {
        fields.insert(
            "typed_extension_protocol_options".to_owned(),
            protocol(&json!({
                "explicit_http_config": { "http_protocol_options": {} },
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
            })),
        );
        fields.extend(tls.map(|tls| ("transport_socket".to_owned(), tls)));
    }
    cluster
}

fn cluster(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

fn protocol(options: &Value) -> Value {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut options = options.clone();
    if let Some(options) = options.as_object_mut() {
        options.insert("@type".to_owned(), format!("type.googleapis.com/{NAME}").into());
    }
    json!({ NAME: options })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

# Every replica of the bundle endpoint behind this name gets a link of its own.
endpoint = "dns:///bundle-endpoint.spire.svc:8444"
endpoint_spiffe_id = "spiffe://cluster2.org/bundle-endpoint"
serve_as_server = true
refresh_hint = "5m"
# This file is the truth: a domain that is taken out here is taken out of SPIRE, also while the server was away.
undeclared_bundles = "remove"

# The first bundle comes by deploy/script/introduce.sh; from then on each one authenticates the next.
federates_with "cluster1.org" {
    bundle_endpoint_url = "https://10.10.0.131:8443"
    bundle_endpoint_profile "https_spiffe" {
        endpoint_spiffe_id = "spiffe://cluster1.org/spire/server"
    }
}

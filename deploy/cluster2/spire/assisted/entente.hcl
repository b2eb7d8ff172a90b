# Every replica of the bundle endpoint behind this name gets a link of its own.
endpoint = "dns:///bundle-endpoint.spire.svc:8444"
endpoint_spiffe_id = "spiffe://cluster2.org/bundle-endpoint"
serve_as_server = true
refresh_hint = "5m"

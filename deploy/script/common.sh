# shellcheck shell=bash
# What the scripts beside this one share; read by them, never run.
#
# KUBECTL is the kubectl to use, with its options if need be: KUBECTL="kubectl --context cluster1". Default: kubectl.

read -ra kubectl <<<"${KUBECTL:-kubectl}"

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# needs PROGRAM... - all of them, before anything is begun.
needs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is missing"
    done
}

# What GNU has under one name and BSD, so macOS, under another.
sha256() {
    local sum
    if command -v sha256sum >/dev/null; then
        sum=$(sha256sum)
    else
        sum=$(shasum -a 256)
    fi
    printf '%s\n' "${sum%% *}"
}
utc() {
    date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ
}

# One command of SPIRE Server's own CLI, in its pod. There is no shell in there, so nothing but its arguments can be handed over.
spire_server() {
    "${kubectl[@]}" exec -n spire -c spire-server deployment/spire-server -- /opt/spire/bin/spire-server "$@"
}

# The trust domain of the cluster: what its SPIRE Server is told, by the very ConfigMap that its pod reads.
trust_domain() {
    local config found
    config=$("${kubectl[@]}" get deployment -n spire spire-server \
        -o "jsonpath={.spec.template.spec.containers[?(@.name=='spire-server')].envFrom[0].configMapRef.name}")
    found=$("${kubectl[@]}" get configmap -n spire "$config" -o 'jsonpath={.data.TRUST_DOMAIN}')
    [ -n "$found" ] || die "ConfigMap spire/$config has no TRUST_DOMAIN: was spire-all.yaml applied here?"
    printf '%s\n' "$found"
}

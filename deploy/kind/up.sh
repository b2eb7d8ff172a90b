#!/usr/bin/env bash
# Both clusters of the walkthrough in Docker: kind, MetalLB on Docker's own network, everything of deploy/ applied, and the checks
# of the walkthrough. up.sh makes them, down.sh takes them away. FORM=managed (default) or assisted.
#
# Needs docker, kind 0.28 or later (whose nodes are Kubernetes 1.33), kubectl, and what images/ needs. Addresses are cut from the
# subnet of the network `kind`, which both clusters share, and put into a copy of deploy/. In the checkout changes what every build
# of the plugin's image changes: its checksum, and the manifests rendered with it.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=../script/common.sh
. "$here/../script/common.sh"

form=${FORM:-managed}
case $form in
    managed) all=spire-all.yaml ;;
    assisted) all=spire-all-assisted.yaml ;;
    *) die "FORM is managed or assisted, not $form" ;;
esac
needs docker kind kubectl git
docker info >/dev/null 2>&1 || die "no Docker daemon answers"
# Nodes have the architecture of Docker's machine, and pull images of no other.
architecture=$(docker version --format '{{.Server.Arch}}')
[ "$architecture" = amd64 ] || die "Docker runs on $architecture here, and our images are for amd64"

step() { printf '\n== %s\n' "$*"; }
on() {
    local cluster=$1
    shift
    kubectl --context "kind-entente-$cluster" "$@"
}

# Runs a check until it holds, for three minutes at most.
until_holds() {
    local name=$1 tries
    shift
    for ((tries = 0; tries < 90; tries++)); do
        if "$@" >/dev/null 2>&1; then
            printf '  ok: %s\n' "$name"
            return
        fi
        sleep 2
    done
    "$@" || true
    die "did not hold: $name"
}

# Before 1.33 a kubelet knows no right to the list of its pods alone, refuses the agent, and nobody gets an identity.
kubelets_know_their_pods() {
    local cluster=$1 overlay=$1/spire/common/kustomization.yaml versions version
    versions=$(on "$cluster" get nodes -o 'jsonpath={.items[*].status.nodeInfo.kubeletVersion}')
    [ -n "$versions" ] || die "$cluster has no node"
    if grep -Eq '^[^#]*base/nodes-proxy' "$here/../$overlay"; then
        return
    fi
    for version in $versions; do
        case $version in
            v1.[0-9].* | v1.[12][0-9].* | v1.3[0-2].*)
                die "$cluster has a kubelet of $version, and before v1.33 none knows nodes/pods, which agents ask for:" \
                    "delete that cluster and take kind 0.28 or later," \
                    "or name deploy/base/nodes-proxy under \`components\` in deploy/$overlay"
                ;;
        esac
    done
}

step "registry on :10000"
registry=entente-registry
[ -n "$(docker ps -q -f "name=^$registry$")" ] || docker run -d --restart=always -p 127.0.0.1:10000:5000 --name "$registry" registry:2

for number in 1 2; do
    cluster=cluster$number
    step "$cluster"
    if ! kind get clusters | grep -qx "entente-$cluster"; then
        kind create cluster --name "entente-$cluster" --wait 120s --config - <<CONFIG
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  podSubnet: 10.2$number.0.0/16
  serviceSubnet: 10.9$((5 + number)).0.0/16
CONFIG
    fi
    kubelets_know_their_pods "$cluster"
    # To a pod, localhost:10000 is the node's.
    for node in $(kind get nodes --name "entente-$cluster"); do
        docker exec "$node" mkdir -p /etc/containerd/certs.d/localhost:10000
        printf '[host."http://%s:5000"]\n' "$registry" |
            docker exec -i "$node" cp /dev/stdin /etc/containerd/certs.d/localhost:10000/hosts.toml
    done
done
if ! docker network inspect kind -f '{{range .Containers}}{{.Name}}{{"\n"}}{{end}}' | grep -x "$registry" >/dev/null; then
    docker network connect kind "$registry"
fi

step "images"
"$here/../images/build.sh"
"$here/../cluster1/server/build.sh"
"$here/../cluster1/client/build.sh"

step "addresses from Docker's network"
subnet=$(docker network inspect kind -f '{{range .IPAM.Config}}{{.Subnet}}{{"\n"}}{{end}}' | grep -m1 -F . || true)
[ -n "$subnet" ] || die "the network kind has no IPv4 subnet"
# The last of the addresses that begin as the subnet does: .255 of a /16, or .0 of a /24.
case ${subnet#*/} in
    16) prefix=$(cut -d. -f1,2 <<<"$subnet").255 ;;
    24) prefix=$(cut -d. -f1-3 <<<"$subnet") ;;
    *) die "the network kind is $subnet; this script knows /16 and /24" ;;
esac
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/.." "$copy/deploy"
grep -rlF --include='*.yaml' --include='*.hcl' 10.10.0. "$copy/deploy" | while read -r file; do
    sed "s/10\.10\.0\./$prefix./g" "$file" >"$file.new"
    mv "$file.new" "$file"
done
"$copy/deploy/script/render.sh"
cd "$copy/deploy"

for cluster in cluster1 cluster2; do
    step "$cluster: MetalLB, SPIRE, Entente"
    on "$cluster" apply -f "$cluster/metalLB/metalLB.yaml"
    on "$cluster" apply -f "$cluster/spire/$all"
    on "$cluster" rollout status -n metallb-system deployment/controller --timeout=300s
    until_holds "$cluster has its addresses" on "$cluster" apply -f "$cluster/metalLB/my-network.yaml"
    on "$cluster" rollout status -n spire deployment/spire-server --timeout=300s
    on "$cluster" rollout status -n spire daemonset/spire-agent --timeout=300s
    until_holds "$cluster has its identities" on "$cluster" apply -f "$cluster/spire/cluster-spiffeid.yaml"
    on "$cluster" rollout status -n spire deployment/bundle-endpoint --timeout=300s
done

step "the first bundle, both ways"
script/introduce.sh kind-entente-cluster1 kind-entente-cluster2
for cluster in cluster1 cluster2; do
    if [ "$form" = assisted ]; then
        on "$cluster" apply -f "$cluster/spire/cluster-federated-trust-domain.yaml"
    fi
    on "$cluster" apply -f "$cluster/spire/cluster-spiffeid-federated.yaml"
done

step "workloads"
on cluster1 apply -f cluster1/server/helloworld-server.yaml
on cluster1 apply -f cluster1/client/helloworld-client.yaml
on cluster2 apply -f cluster2/client/helloworld-client.yaml

greeted() {
    on cluster1 logs deployment/helloworld-server | grep -F "spiffe://$1.org/ns/default/sa/default/app/helloworld-client"
}
healthy() {
    KUBECTL="kubectl --context kind-entente-$1" "script/status.sh"
}
refuses_http() {
    docker exec "entente-cluster1-control-plane" curl -s -m 5 "$prefix.141:8443" |
        grep -F 'Client sent an HTTP request to an HTTPS server.'
}
step "checks"
for cluster in cluster1 cluster2; do
    until_holds "$cluster: every relationship is healthy" healthy "$cluster"
    until_holds "the server of cluster1 greets the client of $cluster" greeted "$cluster"
done
until_holds "cluster2's endpoint answers on the network" refuses_http

printf '\nBoth run on: kubectl --context kind-entente-cluster1 (or 2). %s takes them away.\n' "$here/down.sh"

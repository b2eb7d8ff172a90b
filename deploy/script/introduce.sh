#!/usr/bin/env bash
# Tells two clusters each other's first bundle, once: introduce.sh CLUSTER1 CLUSTER2
#
# A cluster is the name of a kubectl context or the path of a kubeconfig. What authenticates the bundles is your own right to run
# SPIRE Server's CLI on both sides. Nothing is stored here and nothing is pasted; every later bundle is authenticated by the one
# before. Running it again does no harm: it sets what each side says today.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"

[ "$#" -eq 2 ] || die "two clusters are needed: $0 CLUSTER1 CLUSTER2, each a kubectl context or a kubeconfig"
plain=("${kubectl[@]}")

# From here on "kubectl" is that of this cluster.
use() {
    if [ -f "$1" ]; then
        kubectl=("${plain[@]}" --kubeconfig "$1")
    else
        kubectl=("${plain[@]}" --context "$1")
    fi
}

# stdin: the bundle of the trust domain $1.
hold() {
    "${kubectl[@]}" exec -i -n spire -c spire-server deployment/spire-server -- \
        /opt/spire/bin/spire-server bundle set -id "spiffe://$1" -format spiffe
}

domains=()
bundles=()
for cluster in "$@"; do
    use "$cluster"
    domains+=("$(trust_domain)")
    bundles+=("$(spire_server bundle show -format spiffe)")
done
[ "${domains[0]}" != "${domains[1]}" ] || die "$1 and $2 are both ${domains[0]}: these are two ways to one cluster"
for bundle in "${bundles[@]}"; do
    # An empty bundle would take away all trust, here of all moments.
    grep -q '"x509-svid"' <<<"$bundle" || die "a SPIRE Server answered without any X.509 authority: $bundle"
done

use "$1"
hold "${domains[1]}" <<<"${bundles[1]}"
printf '%s holds the bundle of %s\n' "${domains[0]}" "${domains[1]}"
use "$2"
hold "${domains[0]}" <<<"${bundles[0]}"
printf '%s holds the bundle of %s\n' "${domains[1]}" "${domains[0]}"

#!/usr/bin/env bash
# Takes away what up.sh has made, and nothing else.
set -euo pipefail

for cluster in cluster1 cluster2; do
    kind delete cluster --name "entente-$cluster"
done
if [ -n "$(docker ps -aq -f 'name=^entente-registry$')" ]; then
    docker rm -f entente-registry >/dev/null
fi

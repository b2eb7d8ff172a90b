#!/usr/bin/env bash
# Builds and pushes: entente-plugin bundle-endpoint.
set -euo pipefail
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../script/build-image.sh" entente-plugin bundle-endpoint

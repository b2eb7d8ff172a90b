#!/usr/bin/env bash
# Builds and pushes: entente-plugin bundle-endpoint.
set -euo pipefail
exec "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../script/build-image.sh" entente-plugin bundle-endpoint

#!/usr/bin/env bash
# Builds and pushes: helloworld-client.
set -euo pipefail
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../script/build-image.sh" helloworld-client

#!/usr/bin/env bash
# Builds and pushes: helloworld-server.
set -euo pipefail
exec "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../script/build-image.sh" helloworld-server

#!/usr/bin/env bash
# Builds and pushes: helloworld-client.
set -euo pipefail
exec "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../script/build-image.sh" helloworld-client

#!/usr/bin/env bash
# Every registration entry of this cluster's SPIRE Server. Arguments go to `entry show`: -spiffeID, -federatesWith ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"

spire_server entry show "$@"

#!/usr/bin/env bash
# Every registration entry of this cluster's SPIRE Server. Arguments go to `entry show`: -spiffeID, -federatesWith ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

spire_server entry show "$@"

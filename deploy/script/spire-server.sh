#!/usr/bin/env bash
# This cluster's bundle, those of the others that it holds, and SPIRE's own federation relationships.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"

echo "----------Bundle Show----------"
spire_server bundle show -format spiffe
echo "----------Bundle List----------"
spire_server bundle list -format spiffe
echo "----------Federation List----------"
spire_server federation list

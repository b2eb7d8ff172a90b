#!/usr/bin/env bash
# Every relationship of this cluster in both directions, as each replica of the bundle endpoint sees it. Exit 1 when one of them
# finds something wrong, or none runs. Arguments go to `bundle-endpoint status`: --output json ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"

pods=$("${kubectl[@]}" get pods -n spire -l app=bundle-endpoint --field-selector=status.phase=Running -o name)
[ -n "$pods" ] || die "no bundle endpoint runs here: kubectl get pods -n spire"
status=0
for pod in $pods; do
    printf -- '----------%s----------\n' "${pod#pod/}"
    "${kubectl[@]}" exec -n spire -c bundle-endpoint "$pod" -- /opt/entente/bundle-endpoint status "$@" || status=1
done
exit "$status"

#!/usr/bin/env bash
# Writes the files that rendered.txt names, from their kustomizations. They are checked in, so that `kubectl apply -f` is enough;
# a test compares. With --check nothing is written: exit 1 names every file that is stale.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"
cd "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/.."

check=no
case ${1-} in
    --check) check=yes ;;
    '') ;;
    *) die "render.sh takes nothing or --check, not $1" ;;
esac

render() {
    printf '# Rendered from deploy/%s by deploy/script/render.sh. Change it there.\n' "$1"
    "${kubectl[@]}" kustomize "$1"
}

stale=0
while read -r folder file; do
    case $folder in
        '' | '#') continue ;;
    esac
    text=$(render "$folder")
    if [ -f "$file" ] && [ "$text" = "$(cat "$file")" ]; then
        continue
    fi
    if [ "$check" = yes ]; then
        printf 'stale: deploy/%s\n' "$file"
        stale=1
    else
        printf '%s\n' "$text" >"$file.new"
        mv "$file.new" "$file"
        printf 'written: deploy/%s\n' "$file"
    fi
done <rendered.txt
exit "$stale"

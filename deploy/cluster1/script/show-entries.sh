#!/usr/bin/env bash
exec "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../script/show-entries.sh" "$@"

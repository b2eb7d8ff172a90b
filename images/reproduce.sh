#!/usr/bin/env bash
# Builds the images twice, from two checkouts of the last commit into two target folders, and compares: one digest each, or exit 1.
# Takes two release builds (8 minutes of two idle cores each). The folder for it is made in TMPDIR and removed.
set -euo pipefail
cd "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --locked --profile lab --package entente-images
builder=${CARGO_TARGET_DIR:-target}/lab/entente-images
builder=$(readlink -f "$builder")

# Different depths and lengths, since those are what gets into programs.
for place in a another/place/with-a-longer-name; do
    git clone --quiet . "$work/$place/entente"
    "$builder" build --workspace "$work/$place/entente" --target-dir "$work/$place/build" --out "$work/$place/images" |
        awk '/^[^ ]/ { name = $1 } $1 == "manifest" || $1 == "program" { print name, $1, $2 }' >"$work/${place%%/*}.txt"
done
cat "$work/a.txt"
if ! diff "$work/a.txt" "$work/another.txt"; then
    printf 'the two builds differ\n' >&2
    exit 1
fi
printf 'two builds, one digest each\n'

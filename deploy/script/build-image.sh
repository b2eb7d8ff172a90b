#!/usr/bin/env bash
# Builds images of Entente and pushes them into the registry: build-image.sh NAME...
#
# With Docker where a daemon answers, else without one: cargo, musl-tools and Rust's musl target are needed then, and whatever
# is missing is named. REGISTRY is where they go (localhost:10000), BUILDER=docker or BUILDER=cargo makes the choice. With the
# plugin its checksum is written, and the manifests that carry it are rendered again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

registry=${REGISTRY:-localhost:10000}
checksum_file=deploy/base/spire/plugin-checksum.env
version=$(awk -F'"' '/^\[workspace.package\]/ { here = 1 } here && /^version = / { print $2; exit }' Cargo.toml)

[ $# -gt 0 ] || die "build-image.sh needs the names of images: entente-plugin, bundle-endpoint, helloworld-server, helloworld-client"

builder() {
    if [ -n "${BUILDER-}" ]; then
        printf '%s\n' "$BUILDER"
    elif docker info >/dev/null 2>&1; then
        printf 'docker\n'
    else
        printf 'cargo\n'
    fi
}

with_docker() {
    local name=$1 image=$registry/$1:$version revision created
    revision=$(git rev-parse HEAD)
    # Manifests are in no image, and building the plugin writes its checksum into them.
    [ -z "$(git status --porcelain --untracked-files=no -- . ':(exclude)deploy')" ] || revision=$revision-modified
    created=$(git log -1 --format=%ct)
    docker build --file images/Dockerfile --target "$name" --tag "$image" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=${SOURCE-}" \
        --build-arg "SOURCE_DATE_EPOCH=$created" --build-arg "CREATED=$(date -u -d "@$created" +%Y-%m-%dT%H:%M:%SZ)" .
    if [ "$name" = entente-plugin ]; then
        tag_with_checksum "$image"
    else
        docker push "$image"
    fi
}

# The manifests ask for the plugin by its checksum: of the program as it lies in the image.
tag_with_checksum() {
    local container sum
    container=$(docker create "$1")
    sum=$(docker cp "$container:/opt/entente/entente-plugin" - | tar -xO | sha256sum | cut -d' ' -f1)
    docker rm "$container" >/dev/null
    docker tag "$1" "$registry/entente-plugin:$sum"
    docker push "$registry/entente-plugin:$sum"
    printf 'ENTENTE_PLUGIN_SHA256=%s\n' "$sum" >"$checksum_file.new"
    mv "$checksum_file.new" "$checksum_file"
}

with_cargo() {
    # The profile of the lab: optimised, and linked in a quarter of the time. The programs in the images are release builds.
    cargo run --locked --profile lab --package entente-images -- build "$@" \
        --registry "$registry" --plugin-checksum "$checksum_file" --push
}

case $(builder) in
    docker)
        for name in "$@"; do
            with_docker "$name"
        done
        ;;
    cargo) with_cargo "$@" ;;
    *) die "BUILDER is docker or cargo, not $BUILDER" ;;
esac

case " $* " in
    *' entente-plugin '*) deploy/script/render.sh ;;
esac

#!/usr/bin/env bash
# Builds images of Entente and pushes them into the registry: build-image.sh NAME...
#
# With Docker where a daemon answers, else without one: cargo, musl-tools and Rust's musl target are needed then, and whatever
# is missing is named. REGISTRY is where they go (localhost:10000), BUILDER=docker or BUILDER=cargo makes the choice. With the
# plugin its checksum is written, and the manifests that carry it are rendered again, by kubectl. Git says which sources these are;
# without a checkout REVISION and SOURCE_DATE_EPOCH do.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/common.sh"
cd "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../.."

registry=${REGISTRY:-localhost:10000}
checksum_file=deploy/base/spire/plugin-checksum.env
version=$(awk -F'"' '/^\[workspace.package\]/ { here = 1 } here && /^version = / { print $2; exit }' Cargo.toml)

[ $# -gt 0 ] || die "build-image.sh needs the names of images: entente-plugin, bundle-endpoint, helloworld-server, helloworld-client"

case " $* " in
    # Whose checksum gets into the manifests, which are rendered then.
    *' entente-plugin '*) needs "${kubectl[0]}" ;;
esac

# Which sources these are: git knows, or whoever unpacked them says so.
if [ -z "${REVISION-}" ] || [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    # A git that is missing fails here too.
    git rev-parse --verify --quiet HEAD >/dev/null 2>&1 ||
        die "no git, or no checkout: say which sources these are, REVISION=v$version SOURCE_DATE_EPOCH=<seconds since 1970>"
    if [ -z "${REVISION-}" ]; then
        REVISION=$(git rev-parse HEAD)
        # Manifests are in no image, and building the plugin writes its checksum into them.
        [ -z "$(git status --porcelain --untracked-files=no -- . ':(exclude)deploy')" ] || REVISION=$REVISION-modified
    fi
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
fi
export SOURCE_DATE_EPOCH

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
    local name=$1 image=$registry/$1:$version
    # The programs are for amd64, wherever they are built.
    docker build --platform linux/amd64 --file images/Dockerfile --target "$name" --tag "$image" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$REVISION" --build-arg "SOURCE=${SOURCE-}" \
        --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" --build-arg "CREATED=$(utc "$SOURCE_DATE_EPOCH")" .
    if [ "$name" = entente-plugin ]; then
        tag_with_checksum "$image"
    else
        docker push "$image"
    fi
}

# Docker has no way to put them beside an image in the registry.
bills_of_materials() {
    docker build --platform linux/amd64 --file images/Dockerfile --target sboms --output target/images \
        --build-arg "REVISION=$REVISION" --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" .
    printf 'bills of materials, which are not in the registry: target/images/*.sbom.json\n'
}

# The manifests ask for the plugin by its checksum: of the program as it lies in the image.
tag_with_checksum() {
    local container sum
    container=$(docker create "$1")
    sum=$(docker cp "$container:/opt/entente/entente-plugin" - | tar -xO | sha256)
    docker rm "$container" >/dev/null
    docker tag "$1" "$registry/entente-plugin:$sum"
    docker push "$registry/entente-plugin:$sum"
    printf 'ENTENTE_PLUGIN_SHA256=%s\n' "$sum" >"$checksum_file.new"
    mv "$checksum_file.new" "$checksum_file"
}

with_cargo() {
    # The profile of the lab: optimised, and linked in a quarter of the time. The programs in the images are release builds.
    cargo run --locked --profile lab --package entente-images -- build "$@" \
        --revision "$REVISION" --registry "$registry" --plugin-checksum "$checksum_file" --push
}

case $(builder) in
    docker)
        needs docker
        for name in "$@"; do
            with_docker "$name"
        done
        bills_of_materials
        ;;
    cargo) with_cargo "$@" ;;
    *) die "BUILDER is docker or cargo, not $BUILDER" ;;
esac

case " $* " in
    *' entente-plugin '*) deploy/script/render.sh ;;
esac

#!/bin/sh
# Checks licences, bans and sources of all dependencies with cargo-deny, which it installs on first use.
set -eu
cd "$(dirname "$0")/.."
version=0.18.3
tools=${SIDETRACK_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sidetrack/tools}
deny=$tools/cargo-deny-$version/bin/cargo-deny
if ! [ -x "$deny" ]; then
    echo "Installing cargo-deny $version (once)" >&2
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools/cargo-deny-$version" --version "$version" cargo-deny
    rm -rf "$tools/build"
fi
exec "$deny" --all-features check bans licenses sources

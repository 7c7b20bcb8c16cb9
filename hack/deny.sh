#!/bin/sh
# Checks licences, bans, sources and advisories of all dependencies with cargo-deny, which it installs on first use. The
# database of advisories is fetched each time; where it cannot be reached they are not checked, and that is said.
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
"$deny" --all-features check bans licenses sources
if "$deny" --all-features fetch db >/dev/null 2>&1; then
    exec "$deny" --all-features check --disable-fetch advisories
fi
echo "advisories are NOT checked: their database cannot be reached" >&2

#!/bin/sh
# Makes a book of docs/ with mdbook, which it installs on first use: target/book/index.html. Fails on a warning.
set -eu
cd "$(dirname "$0")/.."
version=0.5.4
tools=${SIDETRACK_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sidetrack/tools}
mdbook=$tools/mdbook-$version/bin/mdbook
if ! [ -x "$mdbook" ]; then
    echo "Installing mdbook $version (once)" >&2
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools/mdbook-$version" --version "$version" --no-default-features mdbook
    rm -rf "$tools/build"
fi
said=$("$mdbook" build 2>&1) || { echo "$said" >&2; exit 1; }
if echo "$said" | grep -q 'WARN\|ERROR'; then
    echo "$said" >&2
    exit 1
fi

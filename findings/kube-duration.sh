#!/bin/sh
# kube-core 5.0.0 (crates.io), type kube_core::Duration, which says that it reads the format of Go's time.ParseDuration.
#
# It takes texts for durations that Go refuses: nothing at all, a lone sign, and two signs, of which it drops the minus. An empty
# `timeout` or `interval` in a custom resource is then no error but zero seconds, which a controller may take for "at once". Seen
# 2026-12-01 with rustc 1.95.0 and go 1.26; fails when either of the two answers otherwise.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/rust/src" "$work/go"

cat >"$work/rust/Cargo.toml" <<'END'
[package]
name = "durations"
version = "0.0.0"
edition = "2024"

[dependencies]
kube-core = { version = "=5.0.0", default-features = false }
k8s-openapi = { version = "0.29", features = ["v1_33"] }
END
cat >"$work/rust/src/main.rs" <<'END'
fn main() {
    for text in ["1m30s", "", "-", "+", "+-5s", "10"] {
        match text.parse::<kube_core::Duration>() {
            Ok(read) => println!("{text:?} {read:?}"),
            Err(_) => println!("{text:?} refused"),
        }
    }
}
END
cat >"$work/go/go.mod" <<'END'
module durations

go 1.24
END
cat >"$work/go/main.go" <<'END'
package main

import (
	"fmt"
	"time"
)

func main() {
	for _, text := range []string{"1m30s", "", "-", "+", "+-5s", "10"} {
		if read, err := time.ParseDuration(text); err == nil {
			fmt.Printf("%q %v\n", text, read)
		} else {
			fmt.Printf("%q refused\n", text)
		}
	}
}
END
(cd "$work/rust" && cargo run --quiet) >"$work/kube"
(cd "$work/go" && go run .) >"$work/go.said"
echo "kube-core 5.0.0:"
cat "$work/kube"
echo "Go:"
cat "$work/go.said"
[ "$(cat "$work/kube")" = '"1m30s" 90s
"" 0ns
"-" -0ns
"+" 0ns
"+-5s" 5s
"10" refused' ] || { echo "kube-core answers otherwise now" >&2; exit 1; }
[ "$(cat "$work/go.said")" = '"1m30s" 1m30s
"" refused
"-" refused
"+" refused
"+-5s" refused
"10" refused' ] || { echo "Go answers otherwise now" >&2; exit 1; }

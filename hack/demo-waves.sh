#!/bin/sh
# Plays a change that rolls through three clusters: three real control planes with a Sidetrack each, on loopback. The writer
# makes the requests of Flux's kustomize-controller (server-side apply, forced, under its field manager); it is kubectl, so that
# no root is needed. Ends everything it started.
set -eu
if [ "${CLUSTERS:-3}" != 3 ]; then
    echo "CLUSTERS is $CLUSTERS: this story has three; write CLUSTERS=3." >&2
    exit 2
fi
cd "$(dirname "$0")/.."
bin=$(pwd)/target/debug
if [ -n "${CARGO_TARGET_DIR:-}" ]; then bin=$CARGO_TARGET_DIR/debug; fi

# Each control plane lives as long as the command that it runs: here one inside the other.
stage=${1:-0}
case $stage in
0)
    cargo build --locked --bin sidetrack --package sidetrack
    cargo build --locked --package ground
    ;;
1) export EU1="$KUBECONFIG" EU1_RIGHTS="$SIDETRACK_KUBECONFIG" ;;
2) export EU2="$KUBECONFIG" EU2_RIGHTS="$SIDETRACK_KUBECONFIG" ;;
3) export US1="$KUBECONFIG" US1_RIGHTS="$SIDETRACK_KUBECONFIG" ;;
esac
if [ "$stage" -lt 3 ]; then
    exec "$bin/ground" exec --istio --crds manifests/crds.yaml -- "$0" $((stage + 1))
fi

. hack/stage.sh

# kubectl of a cluster.
eu1() { KUBECONFIG=$EU1 kubectl "$@"; }
eu2() { KUBECONFIG=$EU2 kubectl "$@"; }
us1() { KUBECONFIG=$US1 kubectl "$@"; }

install() { # CLUSTER RIGHTS: manifests/, with the webhook reached on loopback instead of through a Service
    webhook=$("$bin/ground" port) metrics=$("$bin/ground" port)
    webhook_at "$webhook" >"$work/webhook.yaml"
    for file in manifests/namespace.yaml manifests/rbac.yaml "$work/webhook.yaml" manifests/policies-webhook.yaml manifests/policy.yaml; do
        "$1" apply --server-side -f "$file" >/dev/null
    done
    "$bin/sidetrack" run --kubeconfig "$2" --webhook-bind "127.0.0.1:$webhook" --webhook-name 127.0.0.1 \
        --address 127.0.0.1 --port "$metrics" --allow-network 127.0.0.0/8 --log-format text --min-interval 2s --drain-delay 1s >"$work/$1.log" 2>&1 &
    pids="$pids $!"
    "$1" create namespace shop >/dev/null
    "$1" label namespace shop team=shop >/dev/null
    # The Service of application `app`.
    "$1" -n shop create service clusterip app --tcp=80:8080 >/dev/null
}

policy() { # WAVE HOOKS: the same in every cluster but for these two
    cat <<YAML
apiVersion: sidetrack.dev/v1alpha1
kind: CanaryPolicy
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {team: shop}}
  wave: $1
  canary:
    analysis: {interval: 2s, threshold: 1, stepWeight: 25, maxWeight: 50, webhooks: $2}
YAML
}

# A kubeconfig by which another cluster reads this one's Canaries, as the account of manifests/peer-reader.yaml.
peer() { # CLUSTER NAME
    "$1" apply -f manifests/peer-reader.yaml >/dev/null
    server=$("$1" config view -o 'jsonpath={.clusters[0].cluster.server}')
    authority=$("$1" config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority}')
    file=$work/$2.kubeconfig
    {
        kubectl config --kubeconfig "$file" set-cluster "$2" --server "$server" --certificate-authority "$authority" --embed-certs
        kubectl config --kubeconfig "$file" set-credentials "$2" --token "$("$1" -n sidetrack-system create token sidetrack-peer)"
        kubectl config --kubeconfig "$file" set-context "$2" --cluster "$2" --user "$2"
        kubectl config --kubeconfig "$file" use-context "$2"
    } >/dev/null
}

flux() { # VERSION: one change, applied to all clusters at once
    for cluster in eu1 eu2 us1; do
        app shop "$1" | "$cluster" apply --server-side --force-conflicts --field-manager=kustomize-controller -f - | sed "s/^/$cluster \$ flux applies $1: /"
    done
}

# What `kubectl get canary app --watch` shows in each cluster, each line when it is new.
ready='.status.conditions[?(@.type=="Ready")].message'
follow() { # CLUSTER KUBECONFIG
    mkfifo "$work/$1.watch"
    KUBECONFIG=$2 kubectl -n shop get canary app --watch --no-headers \
        -o "custom-columns=PHASE:.status.phase,WEIGHT:.status.canaryWeight,MESSAGE:$ready" >"$work/$1.watch" 2>/dev/null &
    pids="$pids $!"
    while read -r line; do
        if [ "$line" != "${last:-}" ]; then printf '  %s | %s\n' "$1" "$line"; fi
        last=$line
    done <"$work/$1.watch" &
}
phase() { # CLUSTER PHASE
    if ! "$1" -n shop wait canary/app --for="jsonpath={.status.phase}=$2" --timeout=180s >/dev/null; then
        echo "The Canary in $1 did not become $2. What it says:" >&2
        "$1" -n shop get canary app -o yaml >&2
        tail -n 40 "$work/$1.log" >&2
        exit 1
    fi
}
# In place the Deployment says what Git says; what runs is in its pods.
pods() {
    for cluster in eu1 eu2 us1; do
        show "$cluster" -n shop get pods -l app=app -o custom-columns=POD:.metadata.name,IMAGE:.spec.containers[0].image
    done
}

say "1. Three clusters with a Sidetrack each; eu-2 comes after eu-1, us-1 after eu-2 (eu1, eu2, us1: kubectl of each)"
install eu1 "$EU1_RIGHTS"
install eu2 "$EU2_RIGHTS"
install us1 "$US1_RIGHTS"
hook=$("$bin/ground" port)
"$bin/ground" hook --port "$hook" --deny-while "$work/deny" &
pids="$pids $!"
for cluster in eu1 eu2 us1; do
    # The webhook answers when Sidetrack has its certificate.
    until policy null '[]' | "$cluster" apply --dry-run=server -f - >/dev/null 2>&1; do sleep 0.2; done
done
policy null '[]' | eu1 apply -f -
policy '{after: [eu-1], soak: 10s}' "[{name: load-test, type: rollout, url: \"http://127.0.0.1:$hook/\"}]" | eu2 apply -f -
policy '{after: [eu-2], soak: 10s}' '[]' | us1 apply -f -
eu2 wait canarypolicy/shop --for=condition=Ready --timeout=60s >/dev/null
show eu2 get canarypolicy shop -o 'jsonpath={.spec.wave}{"\n"}{.status.conditions[0].message}{"\n"}'

say "2. What a wave takes: the right to read the kubeconfig, and the kubeconfig, in a Secret of the cluster's name"
peer eu1 eu-1
peer eu2 eu-2
eu2 apply -f manifests/peers-role.yaml
us1 apply -f manifests/peers-role.yaml >/dev/null
show eu2 -n sidetrack-system create secret generic eu-1 --from-file="kubeconfig=$work/eu-1.kubeconfig"
show eu2 -n sidetrack-system label secret eu-1 sidetrack.dev/peer=true
us1 -n sidetrack-system create secret generic eu-2 --from-file="kubeconfig=$work/eu-2.kubeconfig" >/dev/null
us1 -n sidetrack-system label secret eu-2 sidetrack.dev/peer=true >/dev/null
for cluster in eu2 us1; do
    while "$cluster" get canarypolicy shop -o 'jsonpath={.status.conditions[0].message}' | grep -q Wave:; do sleep 0.2; done
done
flux v1
for cluster in eu1 eu2 us1; do
    "$cluster" -n shop wait canary/app --for=create --timeout=60s >/dev/null
    phase "$cluster" Initialized
done

say "3. One change in Git rolls through the clusters in order"
follow eu1 "$EU1"
follow eu2 "$EU2"
follow us1 "$US1"
flux v2
phase eu2 Waiting
phase us1 Waiting
for cluster in eu1 eu2 us1; do phase "$cluster" Succeeded; done

say "4. v3 passes in eu-1; its load test fails in eu-2; us-1 stays on v2"
touch "$work/deny"
flux v3
phase us1 Failed
rm "$work/deny"
pods
show us1 -n shop get canary app -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].message}{"\n"}'

say "5. v4 starts its own wave"
flux v4
phase eu2 Waiting
phase us1 Waiting
for cluster in eu1 eu2 us1; do phase "$cluster" Succeeded; done
pods

say "Done; everything that was started is being ended."

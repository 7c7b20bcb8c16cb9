#!/bin/sh
# Plays Sidetrack's story on a real control plane: a release, a rejected one, a reverted one. Ends everything it started.
# LAYOUT=in-place: the applied Deployment stays the primary. POLICY=1: a platform team's policies instead.
set -eu
layout=${LAYOUT:-primary-copy}
case $layout in
primary-copy | in-place) ;;
*)
    echo "LAYOUT is $layout: there is no such layout; write primary-copy or in-place." >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
    cargo build --locked --bin sidetrack --package sidetrack
    cargo build --locked --package ground
    exec "${CARGO_TARGET_DIR:-target}/debug/ground" exec --istio --crds manifests/crds.yaml -- "$0" inside
fi

bin=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)
. hack/stage.sh
# What the controller has logged about the Canary since the last call.
lines=0
narrate() {
    all=$(grep -c . "$work/log" || true)
    tail -n "+$((lines + 1))" "$work/log" | sed -n 's/^[^ ]* [a-z]* *\(.*\) canary="\{0,1\}app\.test"\{0,1\}.*$/  | \1/p'
    lines=$all
}
phase() {
    if ! kubectl -n test wait canary/app --for="jsonpath={.status.phase}=$1" --timeout=90s >/dev/null; then
        echo "The Canary did not become $1. What it says:" >&2
        kubectl -n test get canary app -o yaml >&2
        tail -n 40 "$work/log" >&2
        exit 1
    fi
    narrate
}
weight() { kubectl -n test wait virtualservice/app --for="jsonpath={.spec.http[0].route[1].weight}=$1" --timeout=60s >/dev/null; }

webhook=$("$bin/ground" port) hook=$("$bin/ground" port) metrics=$("$bin/ground" port)
"$bin/ground" hook --port "$hook" --deny-while "$work/deny" &
pids="$pids $!"

say "1. Install (manifests/, with the webhook reached on loopback instead of through a Service)"
webhook_at "$webhook" >"$work/webhook.yaml"
for file in manifests/namespace.yaml manifests/rbac.yaml "$work/webhook.yaml" manifests/policies-webhook.yaml manifests/policy.yaml; do
    kubectl apply --server-side -f "$file" | sed 's/^/  /'
done
"$bin/sidetrack" run --kubeconfig "$SIDETRACK_KUBECONFIG" --webhook-bind "127.0.0.1:$webhook" --webhook-name 127.0.0.1 \
    --address 127.0.0.1 --port "$metrics" --allow-network 127.0.0.0/8 --log-format text --min-interval 2s --drain-delay 1s >"$work/log" 2>&1 &
pids="$pids $!"

if [ -n "${POLICY:-}" ]; then
    . hack/demo-policy.sh
    say "Done; everything that was started is being ended."
    exit
fi
kubectl create namespace test >/dev/null

flux() { app test "$1" | as_flux | sed "s/^/\$ flux applies $1: /"; }

columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image,PAUSED:.spec.paused,READY:.status.readyReplicas
pods() { show kubectl -n test get pods -l app=app -o custom-columns=POD:.metadata.name,IMAGE:.spec.containers[0].image; }

say "2. A Deployment, and a Canary for it"
flux v1
if [ "$layout" = in-place ]; then
    kubectl -n test create service clusterip app --tcp=80:8080
    kubectl -n test rollout status deployment app >/dev/null
    pods
fi
kubectl apply -f - <<YAML
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: app, namespace: test, annotations: {sidetrack.dev/layout: $layout}}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: app}
  service: {port: 80, targetPort: 8080}
  analysis:
    interval: 2s
    threshold: 2
    stepWeight: 10
    maxWeight: 50
    webhooks:
    - {name: acceptance-test, type: pre-rollout, url: "http://127.0.0.1:$hook/"}
    - {name: load-test, type: rollout, url: "http://127.0.0.1:$hook/"}
YAML
phase Initialized
show kubectl -n test get canary,deployments,services,virtualservices
if [ "$layout" = in-place ]; then pods; fi

say "3. A release: v2 is held on its way in, then runs as the canary beside the untouched primary"
flux v2
weight 20
show kubectl -n test get deployments -o "custom-columns=$columns"
weight 50
show kubectl -n test get canary app
if [ "$layout" = in-place ]; then pods; fi
phase Succeeded
if [ "$layout" = in-place ]; then pods; fi
show kubectl -n test get deployments -o "custom-columns=$columns"
flux v2

say "4. A rejected release: the load test of v3 fails at weight 20"
flux v3
weight 20
touch "$work/deny"
phase Failed
rm "$work/deny"
show kubectl -n test get canary app
show kubectl -n test get canary app -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].message}{"\n"}'
show kubectl -n test get deployments -o "custom-columns=$columns"

say "5. A reverted one: v4 is taken back in Git while it is analysed"
flux v4
weight 20
flux v2
phase Succeeded
show kubectl -n test get deployments -o "custom-columns=$columns"
show kubectl -n test get events --sort-by=.metadata.creationTimestamp -o custom-columns=TYPE:.type,MESSAGE:.message --field-selector involvedObject.kind=Canary

if [ "$layout" = in-place ]; then
    say "6. Leaving: the Canary is deleted, the Deployment is plain again"
    kubectl -n test delete canary app
    kubectl -n test wait --for=delete virtualservice/app service/app-canary service/app-primary --timeout=60s >/dev/null
    show kubectl -n test get deployments,services,virtualservices
fi

say "Done; everything that was started is being ended."

# What the demos share; to be read by them. Everything that they start is ended when they end, however they do.
# shellcheck shell=sh

work=$(mktemp -d)
pids=
finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold= dim= plain=; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }

# manifests/webhook.yaml with the webhook reached on loopback instead of through a Service.
webhook_at() { # PORT
    client="{\"url\":\"https://127.0.0.1:$1/mutate\"}" patch=
    for entry in 0 1 2 3; do
        patch="$patch${patch:+,}{\"op\":\"replace\",\"path\":\"/webhooks/$entry/clientConfig\",\"value\":$client}"
    done
    kubectl patch --local -f manifests/webhook.yaml --type=json -p "[$patch]" -o yaml
}

# What a team has in Git, and nothing else.
app() { # NAMESPACE VERSION
    cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: $1}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: "app:$2", ports: [{containerPort: 8080}]}]
YAML
}
# Server-side apply, forced, under Flux's field manager: what Flux sends.
as_flux() { kubectl apply --server-side --force-conflicts --field-manager=kustomize-controller -f -; }

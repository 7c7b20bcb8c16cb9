# Played by demo.sh inside a control plane: a platform team's policies over two namespaces.
# shellcheck shell=sh

flux() { app "$1" "$2" | as_flux | sed "s/^/\$ flux applies $1 $2: /"; }
of() { kubectl -n "$1" get canary app -o "jsonpath={$2}"; }
until_phase() { # NAMESPACE PHASE
    if ! kubectl -n "$1" wait canary/app --for="jsonpath={.status.phase}=$2" --timeout=90s >/dev/null; then
        echo "The Canary of $1 did not become $2. What it says:" >&2
        kubectl -n "$1" get canary app -o yaml >&2
        tail -n 40 "$work/log" >&2
        exit 1
    fi
}
there() { # NAMESPACE: until the policy has made its Canary
    tries=0
    until kubectl -n "$1" get canary app >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "No Canary was made in $1." >&2; tail -n 40 "$work/log" >&2; exit 1; }
        sleep 0.2
    done
}
policy() { # more lines of its spec
    cat <<YAML
apiVersion: sidetrack.dev/v1alpha1
kind: CanaryPolicy
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {team: shop}}
  canary:
    analysis:
      interval: 2s
      threshold: 2
      stepWeight: 25
      maxWeight: 50
$1
YAML
}
apply_shown() { # the same: shown, and applied
    policy "$1" >"$work/policy.yaml"
    cat "$work/policy.yaml"
    kubectl apply -f "$work/policy.yaml"
}
held='custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image,PAUSED:.spec.paused,READY:.status.readyReplicas'

say "2. Two teams have a Deployment and its Service each, and nothing of ours"
for ns in cart search; do
    kubectl create namespace "$ns" >/dev/null
    kubectl label namespace "$ns" team=shop >/dev/null
    kubectl -n "$ns" create service clusterip app --tcp=80:8080
    flux "$ns" v1
    kubectl -n "$ns" rollout status deployment app >/dev/null
done

say "3. The platform team applies one object"
apply_shown ""
for ns in cart search; do there "$ns" && until_phase "$ns" Initialized; done
show kubectl get canarypolicies
show kubectl get canaries -A
show kubectl get mutatingwebhookconfiguration sidetrack-policies -o 'jsonpath={.webhooks[0].name}{"  "}{.webhooks[0].clientConfig.url}{"  "}{.webhooks[0].namespaceSelector}{"\n"}'

say "4. A release: v2 of cart is held on its way in and analysed beside the untouched pods of v1"
flux cart v2
until_phase cart Progressing
show kubectl -n cart get deployments -o "$held"
until_phase cart Succeeded
show kubectl -n cart get deployments -o "$held"

say "5. A freeze window: what is applied is held, never refused"
schedule=$(TZ=UTC date '+%M %H %d %m *')
apply_shown "  freeze:
  - {schedule: \"$schedule\", duration: 10m, reason: inventory}"
kubectl wait canarypolicy/shop --for=jsonpath='{.status.frozen.reason}'=inventory --timeout=30s >/dev/null
flux cart v3
until_phase cart Waiting
show kubectl -n cart get canary app -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}{"\n"}'
show kubectl get canarypolicy shop -o 'jsonpath={.status.conditions[0].message}{"\n"}'
say "   … and goes when the window ends"
policy "" | kubectl apply -f -
until_phase cart Succeeded
show kubectl -n cart get deployments -o "$held"

say "6. An approval, by somebody other than who applied the revision"
policy '  approval: {required: true, fourEyes: true}' | kubectl apply -f -
kubectl wait canarypolicy/shop --for=jsonpath='{.status.observedGeneration}'="$(kubectl get canarypolicy shop -o 'jsonpath={.metadata.generation}')" --timeout=30s >/dev/null
app search v2 | kubectl --as=alice --as-group=system:masters apply -f -
until_phase search Waiting
show kubectl -n search get canary app -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}{"\n"}'
revision=$(of search .status.run.revision | cut -c1-10)
ask() { # USER ID REASON
    echo "\$ $1: approve $revision $2 $3"
    kubectl --as="$1" --as-group=system:masters -n search annotate canary app --overwrite "sidetrack.dev/request=approve $revision $2 $3" >/dev/null
    kubectl -n search wait canary/app --for=jsonpath='{.status.request.text}'="approve $revision $2 $3" --timeout=30s >/dev/null
    of search '.status.request.outcome}{": "}{.status.request.message}{"\n"'
}
ask alice 1 mine
ask bob 2 fine
until_phase search Succeeded
show kubectl -n search get deployments -o "$held"
show kubectl -n search get events --sort-by=.metadata.creationTimestamp -o custom-columns=TYPE:.type,MESSAGE:.message --field-selector involvedObject.kind=Canary

say "7. Leaving: the policy goes, the Deployments are plain ones again"
show kubectl delete canarypolicy shop
show kubectl get canaries -A
show kubectl get deployments -A -o "$held"

//! Who else lives on the target's pods: what adopting them would do to others in the namespace, and what others would do to
//! the pods that are to be made.

use super::Subject;
use crate::api::names::Names;
use crate::api::{Canary, CanarySpec};
use crate::object::Kind;
use crate::review::Review;
use crate::rollout::leaves_alone;
use crate::rollout::model::neighbours::{Neighbours, controller, matches, selects, shown};
use crate::rollout::objects;
use crate::router::VIRTUAL_SERVICE;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The pods in question, by their labels.
struct Pods {
    /// The target's as they are.
    target: Value,
    /// Those of the Deployment that is generated.
    generated: Value,
}

impl Subject<'_> {
    /// Reviews the adoption against everything else that is there; `None` as long as nobody has looked.
    pub(super) fn dependants(&self) -> Option<Review> {
        let around = self.neighbours.as_deref()?;
        let (label, target) = self.label().zip(self.target())?;
        let template = target.pointer("/spec/template")?;
        let labels = |template: &Value| template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let generated = objects::generated_template(template, &label, &self.names);
        let pods = Pods { target: labels(template), generated: labels(&generated) };
        let mut review = Review::default();
        self.rivals(around, &mut review);
        self.met_pods(around, &mut review);
        self.services_of_others(around, &pods, &mut review);
        self.scalers(around, &mut review);
        self.network_policies(around, &pods, &mut review);
        self.selected_pods(around, &pods, &mut review);
        self.scraped_services(around, &mut review);
        self.same_host(around, &mut review);
        review.warnings.extend(around.hidden().iter().map(|kind| {
            format!(
                "It is not known what depends on the pods of {}, because not everything may be listed: {kind}.",
                self.names.target
            )
        }));
        Some(review)
    }

    fn is_ours(&self, object: &Value) -> bool {
        self.owner().owns(object)
    }

    /// Canaries that would meet in one Service or Deployment: the first of them has it.
    fn rivals(&self, around: &Neighbours, review: &mut Review) {
        let created = |object: &Value| {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            (text("/metadata/creationTimestamp"), text("/metadata/name"))
        };
        let names = |names: &Names| -> Vec<(Kind, String)> {
            let services = [&names.apex, &names.apex_primary, &names.apex_canary];
            let deployments = [names.target.as_str(), names.generated()];
            let services = services.into_iter().map(|name| (Kind::Service, name.clone()));
            services.chain(deployments.into_iter().map(|name| (Kind::Deployment, name.to_owned()))).collect()
        };
        let mine = names(&self.names);
        for (name, object) in around.of("Canary") {
            let first = created(object) < created(&self.object);
            let leaves = object.pointer("/metadata/deletionTimestamp").is_some();
            if name == self.names.canary || !first || leaves {
                continue;
            }
            let Ok(other) = serde_json::from_value::<Canary>(object.clone()) else { continue };
            // One that is refused itself has nothing.
            if other.status.as_ref().and_then(leaves_alone).is_some() {
                continue;
            }
            let layout = self.layout_of(object, &other.spec);
            let shared = names(&layout).into_iter().find(|theirs| mine.contains(theirs));
            if let Some((kind, shared)) = shared {
                review.refusals.push(format!(
                    "Canary {name} was there before and has {} {shared} too: two Canaries cannot share it. Give one of them \
                     another spec.targetRef or spec.service.name, or delete it.",
                    kind.as_str()
                ));
            }
        }
    }

    fn layout_of(&self, canary: &Value, spec: &CanarySpec) -> Names {
        let name = canary.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let names = Names::new(&self.names.namespace, name, &spec.target_ref.name, Some(spec.apex_name()));
        super::layout::choose(names, canary, &self.objects, &mut Review::default())
    }

    /// The selectors that are to be made meet nobody else's pods.
    fn met_pods(&self, around: &Neighbours, review: &mut Review) {
        let made: Vec<(String, Map<String, Value>)> = self.selectors_to_be_made();
        let own = [&self.names.target, self.names.generated()].map(|name| format!("Deployment {name}"));
        let mut met: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
        for pods in around.pods() {
            if own.contains(&pods.of) {
                continue;
            }
            for (name, _) in made.iter().filter(|(_, selector)| selects(selector, pods.labels)) {
                met.entry(pods.of.clone()).or_insert((pods.passing, Vec::new())).1.push(name.clone());
            }
        }
        for (of, (passing, by)) in met {
            let by = by.join(", ");
            if passing {
                review.warnings.push(format!(
                    "Pods of {of} have the labels that {by} selects: while they run they get its requests."
                ));
                continue;
            }
            review.refusals.push(format!(
                "The selector of {by} would meet pods of {of} as well: requests that are meant for {target} would go to them. \
                 Make Deployment {target} again with a label in spec.selector.matchLabels that only its own pods have.",
                target = self.names.target
            ));
        }
    }

    fn selectors_to_be_made(&self) -> Vec<(String, Map<String, Value>)> {
        let Some((label, target)) = self.label().zip(self.target()) else { return Vec::new() };
        let names = &self.names;
        let [own, generated] = objects::pod_labels(target, &label, names);
        let service =
            |name: &str, selector: &Map<String, Value>| (format!("Service {name}"), selector.clone());
        if label.pods.is_some() {
            return Vec::new(); // it is a label that nobody else has
        }
        let deployment = (format!("Deployment {}", names.generated()), generated.clone());
        let [primary, canary] = if names.in_place() { [&own, &generated] } else { [&generated, &own] };
        vec![deployment, service(&names.apex_primary, primary), service(&names.apex_canary, canary)]
    }

    /// Other Services that select the target's pods, or those that are to be made.
    fn services_of_others(&self, around: &Neighbours, pods: &Pods, review: &mut Review) {
        let names = &self.names;
        for (name, object) in around.of("Service") {
            let selector = object.pointer("/spec/selector").and_then(Value::as_object);
            let Some(selector) = selector.filter(|_| name != names.apex && !self.is_ours(object)) else {
                continue;
            };
            let (target, generated) = (selects(selector, &pods.target), selects(selector, &pods.generated));
            match (target, generated) {
                (true, false) if !names.in_place() => review.refusals.push(format!(
                    "Service {name} selects the pods of Deployment {target} ({}), which has none between releases: who calls \
                     {name} would reach nobody. Name it in spec.service.name, let it select by labels that the pods of {} \
                     have too, or choose layout \"in-place\".",
                    shown(selector),
                    names.primary,
                    target = names.target
                )),
                (true, true) => review.warnings.push(format!(
                    "Service {name} selects the canary's pods as well as the primary's ({}): they get its requests as soon as \
                     they are ready, beside any weight.",
                    shown(selector)
                )),
                (false, true) => review.refusals.push(format!(
                    "Service {name} ({}) would select the pods of Deployment {}, which is to be made: its clients would reach \
                     them. Rename the value that it selects by.",
                    shown(selector),
                    names.generated()
                )),
                _ => {}
            }
        }
        self.shared_apex(around, review);
    }

    /// Pods of others that the apex Service selects today would get no requests any more.
    fn shared_apex(&self, around: &Neighbours, review: &mut Review) {
        let names = &self.names;
        let apex = around.of("Service").find(|(name, _)| *name == names.apex).map(|(_, object)| object);
        let Some(apex) = apex.filter(|apex| !self.is_ours(apex)) else { return };
        let Some(selector) = apex.pointer("/spec/selector").and_then(Value::as_object) else { return };
        let own = [&names.target, names.generated()].map(|name| format!("Deployment {name}"));
        let others = around.pods().into_iter().filter(|pods| !pods.passing && !own.contains(&pods.of));
        let others: Vec<String> =
            others.filter(|pods| selects(selector, pods.labels)).map(|pods| pods.of).collect();
        if !others.is_empty() && self.by_replicas() {
            review.warnings.push(format!(
                "Service {} selects pods of {} as well ({}): the share of the canary is smaller than status states it.",
                names.apex,
                others.join(", "),
                shown(selector)
            ));
        } else if !others.is_empty() {
            review.refusals.push(format!(
                "Service {} selects pods of {} as well ({}): they would get no requests any more. Let it select the pods of \
                 Deployment {} alone, or name another one in spec.service.name.",
                names.apex,
                others.join(", "),
                shown(selector),
                names.target
            ));
        }
    }

    /// Autoscalers of the target that the Canary does not name.
    fn scalers(&self, around: &Neighbours, review: &mut Review) {
        let names = &self.names;
        if names.in_place() {
            return;
        }
        let scales = |object: &Value| {
            let of = object.pointer("/spec/scaleTargetRef");
            let kind = of.and_then(|of| of.get("kind")?.as_str()).unwrap_or(Kind::Deployment.as_str());
            kind == Kind::Deployment.as_str()
                && of.and_then(|of| of.get("name")?.as_str()) == Some(&names.target)
        };
        let named = self.spec().autoscaler_ref.as_ref().map(|scaler| scaler.name.as_str());
        for (name, object) in around.of("HorizontalPodAutoscaler") {
            // KEDA's own goes with its ScaledObject.
            if scales(object)
                && named != Some(name)
                && controller(object).is_none_or(|(kind, _)| kind != "ScaledObject")
            {
                review.warnings.push(format!(
                    "HorizontalPodAutoscaler {name} scales Deployment {}, which has no pods between releases, and not {}: name \
                     it in spec.autoscalerRef, or the number of pods stays as it is.",
                    names.target, names.primary
                ));
            }
        }
        for (name, object) in around.of("ScaledObject").filter(|(_, object)| scales(object)) {
            let paused = object.pointer("/metadata/annotations").is_some_and(|a| {
                a.get("autoscaling.keda.sh/paused-replicas").is_some()
                    || a.get("autoscaling.keda.sh/paused").is_some()
            });
            if !paused {
                review.refusals.push(format!(
                    "ScaledObject {name} scales Deployment {} up again whenever it is scaled to 0, as it is between releases, and \
                     {} would not be scaled: choose layout \"in-place\", or remove it.",
                    names.target, names.primary
                ));
            }
        }
    }

    /// Who may talk to whom is said by labels, and the pods that are to be made have another one.
    fn network_policies(&self, around: &Neighbours, pods: &Pods, review: &mut Review) {
        let names = &self.names;
        let differ =
            |selector: Option<&Value>| matches(selector, &pods.target) && !matches(selector, &pods.generated);
        for (name, object) in around.of("NetworkPolicy") {
            let about = differ(object.pointer("/spec/podSelector"));
            let rules = ["ingress", "egress"].into_iter().flat_map(|direction| {
                let peers = if direction == "ingress" { "from" } else { "to" };
                let rules = object.pointer(&format!("/spec/{direction}")).and_then(Value::as_array);
                rules.into_iter().flatten().filter_map(move |rule| rule.get(peers)?.as_array()).flatten()
            });
            // The name is the one label of the namespace that is known here.
            let elsewhere = |peer: &&Value| {
                let name = peer.pointer("/namespaceSelector/matchLabels/kubernetes.io~1metadata.name");
                name.is_some_and(|name| *name != names.namespace.as_str())
            };
            let peers = rules.filter(|peer| !elsewhere(peer));
            let lets = peers.into_iter().any(|peer| differ(peer.get("podSelector")));
            let what = match (about, lets) {
                (true, _) => "is about",
                (false, true) => "lets in or out",
                _ => continue,
            };
            let made = names.generated();
            let text = format!(
                "NetworkPolicy {name} {what} the pods of {}, and not those of {made}, which have another value of label {}: \
                 let it select both",
                names.target,
                self.label().map(|label| label.key).unwrap_or_default()
            );
            if names.in_place() {
                review
                    .warnings
                    .push(format!("{text}, or the canary's pods are under other rules than the primary's."));
            } else {
                review.refusals.push(format!(
                    "{text}, or the application would be cut off, or open, once {made} serves; or choose layout \"in-place\"."
                ));
            }
        }
    }

    /// What else selects pods: budgets and monitors.
    fn selected_pods(&self, around: &Neighbours, pods: &Pods, review: &mut Review) {
        let (names, in_place) = (&self.names, self.names.in_place());
        for (kind, what) in [("PodDisruptionBudget", "protects"), ("PodMonitor", "scrapes")] {
            if in_place && kind == "PodDisruptionBudget" {
                continue; // the primary's pods are the ones that it protects
            }
            for (name, object) in around.of(kind) {
                let selector = object.pointer("/spec/selector");
                if matches(selector, &pods.target) && !matches(selector, &pods.generated) {
                    review.warnings.push(format!(
                        "{kind} {name} {what} the pods of {} and none of {}: let it select both.",
                        names.target,
                        names.generated()
                    ));
                }
            }
        }
    }

    /// Monitors that scrape the application through its Service.
    fn scraped_services(&self, around: &Neighbours, review: &mut Review) {
        let names = &self.names;
        let labels = |name: &str| {
            let service = around.of("Service").find(|(found, _)| *found == name)?.1;
            Some(service.pointer("/metadata/labels").cloned().unwrap_or_default())
        };
        let Some(apex) = labels(&names.apex) else { return };
        let key = self.label().map(|label| label.key).unwrap_or_default();
        let mut canary = Map::from_iter([(key, Value::from(names.apex_canary.clone()))]);
        let given = self.object.pointer("/spec/service/canary/labels").and_then(Value::as_object).cloned();
        canary.extend(given.into_iter().flatten());
        let canary = Value::Object(canary);
        for (name, object) in around.of("ServiceMonitor") {
            let selector = object.pointer("/spec/selector");
            if matches(selector, &apex) && !matches(selector, &canary) {
                review.warnings.push(format!(
                    "ServiceMonitor {name} scrapes through Service {}, which leads to the primary's pods alone: to have the \
                     canary's scraped as well, give Service {} its labels by spec.service.canary.labels.",
                    names.apex, names.apex_canary
                ));
            }
        }
    }

    /// Istio's objects of other names for the very host that is to be routed.
    fn same_host(&self, around: &Neighbours, review: &mut Review) {
        if self.router().is_none_or(|router| router.route().kind != VIRTUAL_SERVICE) {
            return;
        }
        let names = &self.names;
        let apex = names.apex.as_str();
        let is_apex = |host: &Value| host.as_str().is_some_and(|host| names.is_apex(host));
        for (name, object) in around.of("VirtualService") {
            let hosts = object.pointer("/spec/hosts").and_then(Value::as_array);
            if name != apex && !self.is_ours(object) && hosts.is_some_and(|hosts| hosts.iter().any(is_apex)) {
                review.refusals.push(format!(
                    "VirtualService {name} is for host {apex} already, and Istio does not say which of two counts: call it {apex} \
                     to have it adopted, or take the host out of it."
                ));
            }
        }
        for (name, object) in around.of("DestinationRule") {
            let ruled = object.pointer("/spec/trafficPolicy").is_some();
            let stated = self.object.pointer("/spec/service/trafficPolicy").is_some();
            if ruled && !stated && !self.is_ours(object) && object.pointer("/spec/host").is_some_and(is_apex)
            {
                review.warnings.push(format!(
                    "The trafficPolicy of DestinationRule {name} is for host {apex} and not for {} and {}, which requests are \
                     routed to: state it in spec.service.trafficPolicy as well.",
                    names.apex_primary, names.apex_canary
                ));
            }
        }
    }
}

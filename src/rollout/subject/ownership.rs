//! Whose an object is. What stands under a name that Sidetrack would use is its own only if its controller ownerReference is
//! this very Canary; anything else is left alone, and said before a single object is touched.

use super::Subject;
use crate::api::keys;
use crate::api::names::{Layout, label_value};
use crate::object::{Kind, ObjectRef};
use crate::rollout::model::neighbours::{controller, selects, shown};
use crate::rollout::objects;
use crate::router::{Live, Router};
use serde_json::Value;

impl Subject<'_> {
    /// An object that was made for this Canary.
    pub(super) fn own(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.get(kind, name).filter(|object| self.owner().owns(object))
    }

    /// Says which objects are in the way because they are somebody else's, and what to do about each.
    pub(super) fn foreign(&self) -> Vec<String> {
        let names = &self.names;
        let service_name = "or give the Canary's Services another name by spec.service.name";
        let mut wanted = vec![(Kind::Deployment, names.generated().to_owned(), self.other_layout())];
        if !self.by_replicas() {
            wanted.push((Kind::Service, names.apex_primary.clone(), service_name.to_owned()));
        }
        wanted.push((Kind::Service, names.apex_canary.clone(), service_name.to_owned()));
        if let Some(scaler) = self.spec().autoscaler_ref.as_ref().filter(|_| !names.in_place()) {
            let name = format!("{}-primary", scaler.name);
            let way = "or remove spec.autoscalerRef".to_owned();
            wanted.push((Kind::HorizontalPodAutoscaler, name, way));
        }
        let mut found: Vec<String> =
            wanted.iter().filter_map(|(kind, name, way)| self.in_the_way(*kind, name, way)).collect();
        found.extend(self.apex_of_another());
        found.extend(self.with_router(Router::refusals));
        found
    }

    /// What of the Canary's wishes an owner's route does not show.
    pub(super) fn unwritten(&self) -> Vec<String> {
        self.with_router(Router::warnings)
    }

    fn with_router(&self, asked: impl Fn(&Router, &Live<'_>) -> Vec<String>) -> Vec<String> {
        let live = |at: &ObjectRef| self.live(at);
        self.router().map(|router| asked(&router, &live)).unwrap_or_default()
    }

    fn other_layout(&self) -> String {
        let other = match self.names.layout {
            Layout::PrimaryCopy => Layout::InPlace,
            Layout::InPlace => Layout::PrimaryCopy,
        };
        format!(
            "or choose layout {:?}, which makes Deployment {} instead",
            other.as_str(),
            self.names.clone().in_layout(other).generated()
        )
    }

    fn in_the_way(&self, kind: Kind, name: &str, way: &str) -> Option<String> {
        let object = self.get(kind, name).filter(|object| !self.owner().owns(object))?;
        let (what, canary) = (kind.as_str(), &self.names.canary);
        let Some((owner, owned_by)) = controller(object) else {
            return Some(format!(
                "{what} {name} exists and was not made for Canary {canary}, which needs the name: rename or delete it, {way}."
            ));
        };
        if owner == "Canary" && owned_by == canary {
            return Some(format!(
                "{what} {name} belongs to an earlier Canary {canary}, with which it goes: it is waited for, or delete it."
            ));
        }
        Some(format!(
            "{what} {name} belongs to {owner} {owned_by}, and Canary {canary} needs the name: rename or delete it, {way}."
        ))
    }

    /// The apex Service is the owner's own or nobody's: what leads to other pods, or is another Canary's, is not adopted.
    fn apex_of_another(&self) -> Option<String> {
        let (names, apex) = (&self.names, self.get(Kind::Service, &self.names.apex)?);
        if self.owner().owns(apex) {
            return None;
        }
        let name = &names.apex;
        let way = "name another one in spec.service.name";
        if let Some((kind, owner)) = controller(apex) {
            return Some(format!("Service {name} belongs to {kind} {owner}: {way}."));
        }
        let marked = apex.pointer("/metadata/labels").and_then(|labels| labels.get(keys::CANARY)?.as_str());
        if let Some(other) = marked.filter(|other| *other != label_value(&names.canary)) {
            return Some(format!(
                "Service {name} leads the traffic of Canary {other}, and two cannot share it: {way}."
            ));
        }
        if names.in_place() || marked.is_some() {
            return None;
        }
        self.port_name_taken(apex).or_else(|| {
            let (label, target) = self.label().zip(self.target())?;
            let selector = apex.pointer("/spec/selector").and_then(Value::as_object).filter(|s| !s.is_empty());
            let Some(selector) = selector else {
                return Some(format!("Service {name} has no selector, so that it does not lead to pods of {}: {way}.", names.target));
            };
            let template = target.pointer("/spec/template")?;
            let generated = objects::generated_template(template, &label, names);
            let leads = [template, &generated].into_iter().any(|t| t.pointer("/metadata/labels").is_some_and(|labels| selects(selector, labels)));
            (!leads).then(|| {
                format!(
                    "Service {name} selects other pods than those of {} ({}): its clients would be led elsewhere; {way}.",
                    names.target,
                    shown(selector)
                )
            })
        })
    }

    /// `in-place` nobody makes the apex Service: a route for a host that no Service has would split no request, and one that
    /// leads to other pods would lead its clients away from them.
    pub(super) fn apex_leads_elsewhere(&self) -> Option<String> {
        let names = &self.names;
        let way = "name the application's Service in spec.service.name.";
        let Some(apex) = self.get(Kind::Service, &names.apex) else {
            return self.router().is_some_and(|router| router.called_by_service()).then(|| {
                format!(
                    "Service {} does not exist: the route would be for a host that nobody calls, and the analysis would \
                     judge a revision that met no request; apply it, or {way}",
                    names.apex
                )
            });
        };
        let template = self.target_template()?;
        let selector = apex.pointer("/spec/selector").and_then(Value::as_object).filter(|s| !s.is_empty());
        let labels = template.pointer("/metadata/labels")?;
        (!selector.is_some_and(|selector| selects(selector, labels))).then(|| {
            format!(
                "Service {} does not select the pods of {}: its clients would be led away from those that it does; {way}",
                names.apex, names.target
            )
        })
    }

    /// A port that has to be added or renamed cannot have the name of another one.
    fn port_name_taken(&self, apex: &Value) -> Option<String> {
        let service = &self.spec().service;
        let stated = service.port_name.as_deref().filter(|name| !name.is_empty())?;
        let ports = apex.pointer("/spec/ports")?.as_array()?;
        let other = ports.iter().find(|port| {
            port.get("name").is_some_and(|name| name == stated)
                && port.get("port").is_none_or(|number| *number != service.port)
        })?;
        let number = other.get("port")?;
        Some(format!(
            "spec.service.portName is {stated:?}, which Service {} has for its port {number}: choose another name, or leave it out.",
            self.names.apex
        ))
    }
}

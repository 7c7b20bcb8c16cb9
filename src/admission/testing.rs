//! Writes to enrolled objects, for tests; each answer is checked for what must always hold.

use super::decide::{Entrance, Settings, decide_at};
use super::outcome::{Outcome, Verdict};
use super::review::{Request, parse};
use super::{patch, server};
use crate::api::keys;
use crate::api::revision::Revision;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The real AdmissionReviews of an API server 1.36 (Flux, kubectl), none of an enrolled object.
pub(super) fn recorded() -> &'static [Request] {
    static RECORDED: LazyLock<Vec<Request>> = LazyLock::new(|| {
        include_str!("../../tests/data/admission-reviews-1.36.jsonl")
            .lines()
            .map(|line| parse(line.as_bytes()).unwrap())
            .collect()
    });
    &RECORDED
}

pub(super) fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "app"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}

/// The whole hash of the template that [`template`] makes.
pub(super) fn hash(image: &str) -> String {
    Revision::of(&template(image)).as_str().to_owned()
}

/// The entry that a field manager leaves on fields of `spec`.
pub(super) fn owner(manager: &str, fields: &[&str]) -> Value {
    let owned: serde_json::Map<_, _> = fields.iter().map(|field| ((*field).to_owned(), json!({}))).collect();
    json!({"manager": manager, "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
           "fieldsV1": {"f:spec": owned}})
}

/// One write to a Deployment or Service: what is stored and what is asked for.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) old: Value,
    pub(super) new: Value,
    operation: &'static str,
    user: String,
    manager: Option<&'static str>,
}

impl Write {
    /// To a target whose pods serve; revision v1 is promoted, replicas 2, generation 17.
    pub(super) fn in_place() -> Self {
        Self::deployment("app", keys::LAYOUT_IN_PLACE, keys::ROLE_TARGET)
    }

    /// To a target whose pods are the canary's.
    pub(super) fn primary_copy() -> Self {
        Self::deployment("app", keys::LAYOUT_PRIMARY_COPY, keys::ROLE_TARGET)
    }

    /// To a generated primary.
    pub(super) fn generated() -> Self {
        Self::deployment("app-primary", keys::LAYOUT_PRIMARY_COPY, keys::ROLE_GENERATED)
    }

    /// To a generated canary.
    pub(super) fn generated_canary() -> Self {
        Self::deployment("app-canary", keys::LAYOUT_IN_PLACE, keys::ROLE_GENERATED)
    }

    /// To the targets of both layouts.
    pub(super) fn targets() -> [Self; 2] {
        [Self::in_place(), Self::primary_copy()]
    }

    fn deployment(name: &str, layout: &str, role: &str) -> Self {
        Self::update(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": name, "namespace": "test", "uid": "d-1", "generation": 17,
                "labels": {"app": "app", keys::CANARY: "app", keys::LAYOUT: layout, keys::ROLE: role},
                "annotations": {"team": "a", keys::PROMOTED: hash("v1")},
                "managedFields": [owner("kustomize-controller", &["f:replicas", "f:template"])],
            },
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "app"}}, "template": template("v1")},
        }))
    }

    /// To an adopted Service whose port `http` the Canary defines.
    pub(super) fn service() -> Self {
        Self::update(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "app", "namespace": "test", "labels": {keys::CANARY: "app"},
                "annotations": {keys::PORTS: "http"},
            },
            "spec": {
                "selector": {"app": "app-primary"},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            },
        }))
    }

    /// An UPDATE that changes nothing yet.
    pub(super) fn update(old: Value) -> Self {
        let (user, manager) = ("flux".to_owned(), Some("kustomize-controller"));
        Self { new: old.clone(), old, operation: "UPDATE", user, manager }
    }

    /// The same object, made anew.
    pub(super) fn create(self) -> Self {
        Self { old: Value::Null, operation: "CREATE", ..self }
    }

    /// Merges into what is stored, and so into what is asked for.
    pub(super) fn stored(mut self, patch: Value) -> Self {
        json_patch::merge(&mut self.old, &patch);
        self.asks(patch)
    }

    /// Merges annotations into what is stored.
    pub(super) fn with(self, annotations: Value) -> Self {
        self.stored(json!({"metadata": {"annotations": annotations}}))
    }

    /// As the webhook leaves a target that it holds at a revision.
    pub(super) fn held(self, image: &str) -> Self {
        self.stored(json!({
            "metadata": {"annotations": {keys::HOLD: hash(image), keys::APPLIED_BY: "before flux"}},
            "spec": {"paused": true, "template": template(image)},
        }))
    }

    /// Merges into what is asked for; null removes.
    pub(super) fn asks(mut self, patch: Value) -> Self {
        json_patch::merge(&mut self.new, &patch);
        self
    }

    /// Asks for annotations; null removes.
    pub(super) fn annotates(self, annotations: Value) -> Self {
        self.asks(json!({"metadata": {"annotations": annotations}}))
    }

    /// Asks for another template.
    pub(super) fn template(self, image: &str) -> Self {
        self.asks(json!({"spec": {"template": template(image)}}))
    }

    /// Asks for the object without anything of ours, as PUT of a plain manifest does.
    pub(super) fn puts_plain(mut self) -> Self {
        let metadata = &mut self.new["metadata"];
        metadata["labels"] = json!({"app": "app"});
        metadata["annotations"] = json!({"team": "a"});
        metadata.as_object_mut().unwrap().remove("finalizers");
        self.new["spec"].as_object_mut().unwrap().remove("paused");
        self
    }

    pub(super) fn by(self, user: &str) -> Self {
        Self { user: user.to_owned(), ..self }
    }

    pub(super) fn managed_by(self, manager: &'static str) -> Self {
        Self { manager: Some(manager), ..self }
    }

    pub(super) fn without_manager(self) -> Self {
        Self { manager: None, ..self }
    }

    /// The AdmissionReview of this write.
    pub(super) fn review(&self) -> Value {
        let object = &self.new;
        let (group, resource) = match object["kind"].as_str() {
            Some("Service") => ("", "services"),
            Some("Canary") => ("flagger.app", "canaries"),
            Some("CanaryPolicy") => ("sidetrack.dev", "canarypolicies"),
            _ => ("apps", "deployments"),
        };
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "uid-1", "operation": self.operation, "dryRun": false,
            "kind": {"group": group, "version": "v1", "kind": object["kind"]},
            "resource": {"group": group, "version": "v1", "resource": resource},
            "name": object["metadata"]["name"], "namespace": "test",
            "userInfo": {"username": self.user}, "options": {"fieldManager": self.manager},
            "object": object, "oldObject": self.old,
        }})
    }

    /// Lets the webhook answer.
    pub(super) fn run(&self) -> Answered {
        self.run_at(&Entrance::Enrolled)
    }

    /// Lets the webhook answer at the entrance of a policy.
    pub(super) fn run_at(&self, entrance: &Entrance) -> Answered {
        answer_at(entrance, &parse(self.review().to_string().as_bytes()).unwrap())
    }
}

/// An answer, and the object as it leaves the webhook.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) outcome: Outcome,
    pub(super) object: Value,
}

impl Answered {
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.object["metadata"]["annotations"][key].as_str()
    }

    pub(super) fn paused(&self) -> bool {
        self.object["spec"]["paused"].as_bool().unwrap_or(false)
    }

    pub(super) fn passes_untouched(&self) -> bool {
        self.outcome == Outcome::pass()
    }

    /// Returns the message of the denial.
    pub(super) fn denied(&self) -> &str {
        match &self.outcome.verdict {
            Verdict::Deny(denial) => &denial.message,
            other => panic!("not denied: {other:?}"),
        }
    }

    pub(super) fn warned_of(&self, words: &str) -> bool {
        self.outcome.warnings.iter().any(|warning| warning.contains(words))
    }
}

/// Answers a request and asserts what holds for every one: the patch applies, asking again changes
/// nothing, dry-run is answered alike, the same request gives the same bytes, the template stays.
pub(super) fn answer(request: &Request) -> Answered {
    answer_at(&Entrance::Enrolled, request)
}

pub(super) fn answer_at(entrance: &Entrance, request: &Request) -> Answered {
    let settings = Settings::default();
    let outcome = decide_at(entrance, request, &settings);
    let mut object = request.object.clone();
    let patch = patch::build(&request.object, &outcome.verdict).unwrap();
    json_patch::patch(&mut object, &patch).unwrap();
    assert_eq!(object.pointer("/spec/template"), request.object.pointer("/spec/template"));

    let mut dry = request.clone();
    dry.dry_run = Some(!request.is_dry_run());
    let bytes = |outcome: &Outcome| server::respond(request, outcome).unwrap().to_bytes().unwrap();
    assert_eq!(
        bytes(&outcome),
        bytes(&decide_at(entrance, &dry, &settings)),
        "dry-run is answered otherwise"
    );

    match &outcome.verdict {
        Verdict::Deny(denial) => {
            assert!([400, 403].contains(&denial.reason.code()));
            assert!(!denial.message.contains("is immutable"));
        }
        Verdict::Pass => assert!(patch.is_empty()),
        Verdict::Mutate(changes) => assert!(!changes.is_empty() && !patch.is_empty()),
    }
    if !matches!(outcome.verdict, Verdict::Deny(_)) {
        let again = Request { object: object.clone(), ..request.clone() };
        let second = decide_at(entrance, &again, &settings);
        assert_eq!(second.verdict, Verdict::Pass, "not idempotent: {outcome:#?}");
    }
    for warning in &outcome.warnings {
        assert!(warning.chars().count() <= 120, "{warning}");
    }
    Answered { outcome, object }
}

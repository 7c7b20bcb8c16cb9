//! The undo of an adoption: what the owner of a route had, kept on the route itself, and how it is put back.

use super::adopted::{self, Leads, Shape, Side};
use super::object::{self, FLAGGERS_ORIGINAL, FLUX_OPT_OUT, LAST_APPLIED, set, settle, unset};
use super::{Live, Router, Weights, weight_of};
use crate::api::keys;
use crate::object::{Kind, ObjectRef, Write};
use serde_json::{Map, Value, json};

/// What [`keys::ORIGINAL`] says on an adopted route.
pub(super) struct Record {
    /// The owner's `spec`.
    pub(super) spec: Value,
    /// Those annotations of [`FLUX_OPT_OUT`] that the owner had, with their values.
    pub(super) annotations: Map<String, Value>,
}

impl Record {
    /// Reads it from a live route. One that cannot be read counts for nothing.
    pub(super) fn of(live: &Value) -> Option<Self> {
        let mut record = json(live, keys::ORIGINAL)?;
        let spec = record.get_mut("spec").map(Value::take).filter(Value::is_object)?;
        let annotations = record.get("annotations").and_then(Value::as_object).cloned().unwrap_or_default();
        Some(Self { spec, annotations })
    }

    pub(super) fn write(self, object: &mut Value) {
        let text = json!({ "spec": self.spec, "annotations": self.annotations }).to_string();
        set(object::child(object::child(object, "metadata"), "annotations"), keys::ORIGINAL, text.into());
    }
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.pointer("/metadata/annotations")?.get(key)
}

fn json(object: &Value, key: &str) -> Option<Value> {
    serde_json::from_str(annotation(object, key)?.as_str()?).ok()
}

/// The annotations of [`FLUX_OPT_OUT`] that are the owner's. One with another value than ours was set since; of one with
/// our value the record tells, or what kubectl applied when Flagger adopted the route.
pub(super) fn owners_opt_out(router: &Router, live: &Value, record: Option<&Record>) -> Map<String, Value> {
    let adopted = annotation(live, FLAGGERS_ORIGINAL).is_some() || is_edited(router, live);
    let applied = json(live, LAST_APPLIED);
    let theirs = |key: &str, ours: &str| {
        let value = annotation(live, key)?;
        if value != ours {
            return Some(value.clone());
        }
        match (record, &applied) {
            (Some(record), _) => record.annotations.get(key).cloned(),
            (None, Some(applied)) if adopted => annotation(applied, key).cloned(),
            (None, None) if adopted => None,
            _ => Some(value.clone()),
        }
    };
    FLUX_OPT_OUT.iter().filter_map(|(key, ours)| Some(((*key).to_owned(), theirs(key, ours)?))).collect()
}

/// Whether some rule leads to the primary or the canary.
fn is_edited(router: &Router, live: &Value) -> bool {
    let Some(spec) = live.get("spec") else { return false };
    router.shapes().any(|shape| shape.rules(spec).iter().any(|r| shape.is_edited(&router.names, r)))
}

/// Whether the two sides are Services of somebody else's, who leads to them by themselves.
fn leads_to_others(router: &Router, live: &Live<'_>) -> bool {
    [&router.names.apex_primary, &router.names.apex_canary].iter().any(|name| {
        live(&ObjectRef::new(Kind::Service, &router.names.namespace, *name))
            .is_some_and(|s| !router.owner.owns(s))
    })
}

/// Gives an adopted route back to its owner. A route that was made for the Canary goes with it, one that somebody else
/// controls is theirs, and one that was never edited is left alone.
pub(super) fn restored(router: &Router, at: &ObjectRef, objects: &Live<'_>) -> Option<Write> {
    let live = objects(at)?;
    let untouched = [keys::ORIGINAL, FLAGGERS_ORIGINAL].iter().all(|key| annotation(live, key).is_none())
        && (!is_edited(router, live) || leads_to_others(router, objects));
    if router.owner.owns(live) || router.owner.foreign_controller(live).is_some() || untouched {
        return None;
    }
    let record = Record::of(live);
    let theirs = owners_opt_out(router, live, record.as_ref());
    let mut next = live.clone();
    if let Some(spec) = live.get("spec") {
        let theirs = match &record {
            Some(record) => undone(router, spec, Some(&record.spec)),
            None if is_edited(router, live) => {
                let applied = json(live, LAST_APPLIED).and_then(|a| a.get("spec").cloned());
                let known = applied.or_else(|| json(live, FLAGGERS_ORIGINAL)).filter(Value::is_object);
                // What was applied may itself lead to Services that are about to go.
                undone(router, known.as_ref().unwrap_or(spec), None)
            }
            None => spec.clone(),
        };
        set(&mut next, "spec", theirs);
    }
    let metadata = object::child(&mut next, "metadata");
    let annotations = object::child(metadata, "annotations");
    for (key, _) in FLUX_OPT_OUT {
        settle(annotations, key, theirs.get(key));
    }
    unset(annotations, keys::ORIGINAL);
    unset(annotations, FLAGGERS_ORIGINAL);
    if annotations.as_object().is_some_and(Map::is_empty) {
        unset(metadata, "annotations");
    }
    object::update(at, live, &next)
}

/// Returns the owner's `spec` behind a live one: the record, when the live one is what editing it gives; else the live one,
/// with whatever its owner changed since, and our edits turned back.
pub(super) fn undone(router: &Router, live: &Value, record: Option<&Value>) -> Value {
    let same = |record: &&Value| {
        adopted::edited(router, record, Weights::INITIAL)
            .is_ok_and(|edited| without_weights(router, &edited) == without_weights(router, live))
    };
    if let Some(record) = record.filter(same) {
        return record.clone();
    }
    let mut next = live.clone();
    for shape in router.shapes() {
        turn_back(router, &shape, &mut next, record);
    }
    next
}

fn without_weights(router: &Router, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(shape) = router.shape() else { return spec };
    for rule in shape.rules_mut(&mut spec) {
        *rule = without_weight(router, &shape, rule);
    }
    spec
}

/// Returns a rule without the weights of its sides.
fn without_weight(router: &Router, shape: &Shape, rule: &Value) -> Value {
    let mut rule = rule.clone();
    for entry in rule.get_mut(shape.list).and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(shape.side(&router.names, entry), Some(Side::Primary | Side::Canary)) {
            unset(entry, "weight");
        }
    }
    rule
}

/// Turns the pairs in one list of rules back to the apex, each as its rule in the record has it. Rules that we added, since
/// the record has none, go.
pub(super) fn turn_back(router: &Router, shape: &Shape, spec: &mut Value, record: Option<&Value>) {
    let names = &router.names;
    if let Some(record) = record.filter(|r| (shape.is_empty)(r)) {
        let ours = |element: &Value| match shape.rules {
            Some(_) => shape.is_edited(names, element),
            None => shape.side(names, element).is_some_and(|s| s != Side::Apex),
        };
        if let Some(list) = spec.get_mut(shape.key()).and_then(Value::as_array_mut) {
            list.retain(|element| !ours(element));
            if list.is_empty() {
                restore(spec, shape.key(), record.get(shape.key()));
            }
        }
        return;
    }
    // The owner's rules that were edited, each beside what became of it.
    let known: Vec<(Value, &Value)> = record
        .map_or(&[][..], |r| shape.rules(r))
        .iter()
        .filter(|rule| shape.leads(names, rule) == Leads::Apex)
        .map(|rule| {
            let mut edited = rule.clone();
            adopted::split(router, shape, &mut edited, Weights::INITIAL);
            (without_weight(router, shape, &edited), rule)
        })
        .collect();
    let ours = |rule: &Value| shape.is_edited(names, rule);
    let same_number = shape.rules(spec).iter().filter(|r| ours(r)).count() == known.len();
    for (i, rule) in shape.rules_mut(spec).iter_mut().filter(|r| ours(r)).enumerate() {
        let bare = without_weight(router, shape, rule);
        let name = rule.get("name").filter(|n| **n != "").cloned();
        let is_same = |known: &&(Value, &Value)| known.0 == bare;
        let has_name = |known: &&(Value, &Value)| name.is_some() && known.0.get("name") == name.as_ref();
        let in_place = known.get(i).filter(|_| same_number);
        let found = in_place
            .filter(is_same)
            .or_else(|| known.iter().find(is_same))
            .or_else(|| in_place.filter(has_name))
            .or_else(|| known.iter().find(has_name))
            .or(in_place);
        match found {
            Some((edited, original)) if *edited == bare => *rule = (*original).clone(),
            Some((edited, original)) if edited.get(shape.list) == bare.get(shape.list) => {
                restore(rule, shape.list, original.get(shape.list));
            }
            found => join(router, shape, rule, found.map(|(_, original)| *original)),
        }
    }
}

/// Puts a member back to what it was, or to its absence.
fn restore(object: &mut Value, key: &str, original: Option<&Value>) {
    match original {
        Some(value) => set(object, key, value.clone()),
        None => unset(object, key),
    }
}

/// Makes one destination of a rule's sides again, with the host and the weight that `original` has.
fn join(router: &Router, shape: &Shape, rule: &mut Value, original: Option<&Value>) {
    let names = &router.names;
    let theirs = original.and_then(|r| shape.find(names, r, Side::Apex));
    let base = [Side::Primary, Side::Canary].into_iter().find_map(|s| shape.find(names, rule, s));
    let Some(mut entry) = base.cloned() else { return };
    shape.rename(&mut entry, theirs.and_then(|e| (shape.host)(names, e)).unwrap_or(&names.apex));
    let (sides, others): (Vec<&Value>, Vec<&Value>) =
        shape.entries(rule).iter().partition(|e| shape.side(names, e).is_some());
    // Beside other destinations it keeps the share that the two have together.
    if others.is_empty() && (shape.weightless || theirs.is_some()) {
        restore(&mut entry, "weight", theirs.and_then(|e| e.get("weight")));
    } else {
        let share = sides.iter().filter_map(|e| weight_of(e.get("weight")?)).fold(0, i32::saturating_add);
        set(&mut entry, "weight", router.weight(share));
    }
    let at = shape.entries(rule).iter().position(|e| shape.side(names, e).is_some()).unwrap_or(0);
    let mut entries: Vec<Value> = others.into_iter().cloned().collect();
    entries.insert(at, entry);
    set(rule, shape.list, Value::Array(entries));
}

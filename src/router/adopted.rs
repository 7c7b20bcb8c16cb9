//! Routes that were there before the Canary and stay their owners'.
//!
//! Only what leads traffic to the application is edited: a rule whose one destination is the apex Service leads to both
//! sides instead, by two copies of its owner's entry. All other rules, hosts, gateways, filters, timeouts and labels are
//! left alone. [`super::record`] undoes it; [`super::refused`] says where it cannot be done.

use super::object::{self, set, settle};
use super::record::{self, Record};
use super::service::Metadata;
use super::{RouteError, Router, Weights, refused, weight_of};
use crate::api::names::Names;
use crate::object::{ObjectRef, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How a kind of route says where traffic goes.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// The member of `spec` that lists the rules; without one, `spec` itself is the only rule.
    pub(super) rules: Option<&'static str>,
    /// The member of a rule that lists its destinations.
    pub(super) list: &'static str,
    /// Where a destination names the Service (a JSON pointer).
    pub(super) host_at: &'static str,
    /// Reads that name; `None` of a destination that cannot be one of the Canary's Services.
    pub(super) host: for<'a> fn(&Names, &'a Value) -> Option<&'a str>,
    /// Whether a `spec` has no rules that do anything.
    pub(super) is_empty: fn(&Value) -> bool,
    /// Whether a destination without a weight is valid.
    pub(super) weightless: bool,
}

/// Which of the Canary's Services a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that clients use.
    Apex,
    /// The primary's.
    Primary,
    /// The canary's.
    Canary,
}

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To the apex: it is to be edited.
    Apex,
    /// To one side or both: it was edited, by us or by Flagger.
    Pair,
    /// To the apex or a side among others.
    Mixed,
    /// To others, or nowhere.
    Elsewhere,
}

impl Shape {
    /// The member of `spec` that is edited.
    pub(super) fn key(&self) -> &'static str {
        self.rules.unwrap_or(self.list)
    }

    pub(super) fn rules<'a>(&self, spec: &'a Value) -> &'a [Value] {
        match self.rules {
            None => std::slice::from_ref(spec),
            Some(key) => elements(spec.get(key)),
        }
    }

    pub(super) fn rules_mut<'a>(&self, spec: &'a mut Value) -> &'a mut [Value] {
        match self.rules {
            None => std::slice::from_mut(spec),
            Some(key) => spec.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice),
        }
    }

    pub(super) fn entries<'a>(&self, rule: &'a Value) -> &'a [Value] {
        elements(rule.get(self.list))
    }

    pub(super) fn side(&self, names: &Names, entry: &Value) -> Option<Side> {
        let host = (self.host)(names, entry)?;
        if host == names.apex_primary {
            Some(Side::Primary)
        } else if host == names.apex_canary {
            Some(Side::Canary)
        } else {
            names.is_apex(host).then_some(Side::Apex)
        }
    }

    /// Finds the destination of a rule that is a side.
    pub(super) fn find<'a>(&self, names: &Names, rule: &'a Value, side: Side) -> Option<&'a Value> {
        self.entries(rule).iter().find(|e| self.side(names, e) == Some(side))
    }

    pub(super) fn leads(&self, names: &Names, rule: &Value) -> Leads {
        let entries = self.entries(rule);
        let count = |side| entries.iter().filter(|e| self.side(names, e) == Some(side)).count();
        let (apex, primary, canary) = (count(Side::Apex), count(Side::Primary), count(Side::Canary));
        match apex + primary + canary {
            0 => Leads::Elsewhere,
            known if known < entries.len() || apex > 1 || primary > 1 || canary > 1 => Leads::Mixed,
            _ if apex == 0 => Leads::Pair,
            // A TrafficSplit of the apex has the apex among its backends.
            1 => Leads::Apex,
            _ if self.rules.is_none() => Leads::Apex,
            _ => Leads::Mixed,
        }
    }

    /// Whether a rule was edited: it leads to the primary or the canary in place of the apex, whatever else it leads to.
    pub(super) fn is_edited(&self, names: &Names, rule: &Value) -> bool {
        let leads_to = |side| self.find(names, rule, side).is_some();
        (leads_to(Side::Primary) || leads_to(Side::Canary)) && !leads_to(Side::Apex)
    }

    /// Names another Service in a destination.
    pub(super) fn rename(&self, entry: &mut Value, host: &str) {
        if let Some(at) = entry.pointer_mut(self.host_at) {
            *at = host.into();
        }
    }
}

/// Whether a list of texts in a `spec` lacks one that is stated.
pub(super) fn lacks(spec: &Value, list: &str, stated: &[String]) -> bool {
    let live = elements(spec.get(list));
    stated.iter().any(|s| !live.iter().any(|l| l.as_str() == Some(s)))
}

pub(super) fn elements(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Edits a route that is not the Canary's; nothing is written when nothing differs, or when it is refused.
///
/// # Errors
///
/// When a rule is to be added that cannot be.
pub(super) fn reconcile(router: &Router, at: &ObjectRef, live: &Value) -> Result<Option<Write>, RouteError> {
    let Some(shape) = router.shape().filter(|_| refused::route(router, at, live).is_empty()) else {
        return Ok(None);
    };
    let spec = live.get("spec").cloned().unwrap_or_else(|| json!({}));
    let record = Record::of(live);
    let weights = carried(router, &shape, &spec);
    let mut next = live.clone();
    let new = (shape.is_empty)(&spec)
        || shape.rules(&spec).iter().any(|r| shape.leads(&router.names, r) == Leads::Apex);
    let edited = if new {
        // Seen for the first time, or applied again by its owner.
        let original = record::undone(router, &spec, record.as_ref().map(|r| &r.spec));
        let edited = edited(router, &original, weights)?;
        let annotations = record::owners_opt_out(router, live, record.as_ref());
        Record { spec: original, annotations }.write(&mut next);
        edited
    } else {
        kept(router, &spec, record.as_ref(), weights)?
    };
    set(&mut next, "spec", edited);
    let annotations = object::with_opt_out(&BTreeMap::new());
    object::add_metadata(&mut next, &Metadata { annotations, ..Metadata::default() });
    Ok(object::update(at, live, &next))
}

/// The weights that all pairs get: those that are read, of the last pair.
fn carried(router: &Router, shape: &Shape, spec: &Value) -> Weights {
    let names = &router.names;
    let weight =
        |rule, side| shape.find(names, rule, side).and_then(|e| weight_of(e.get("weight")?)).unwrap_or(0);
    let last = shape.rules(spec).iter().rfind(|rule| {
        shape.leads(names, rule) == Leads::Pair && shape.find(names, rule, Side::Canary).is_some()
    });
    last.map(|rule| Weights { primary: weight(rule, Side::Primary), canary: weight(rule, Side::Canary) })
        .filter(|w| w.primary != 0 || w.canary != 0)
        .unwrap_or(Weights::INITIAL)
}

/// Edits an owner's `spec`. One without rules gets those that a route of the Canary's own would have.
///
/// # Errors
///
/// When such a rule cannot be.
pub(super) fn edited(router: &Router, spec: &Value, weights: Weights) -> Result<Value, RouteError> {
    let Some(shape) = router.shape() else { return Ok(spec.clone()) };
    let mut next = spec.clone();
    if (shape.is_empty)(spec) {
        settle(&mut next, shape.key(), router.spec(weights)?.get(shape.key()));
        return Ok(next);
    }
    split_rules(router, &shape, &mut next, weights);
    Ok(next)
}

/// Repairs a `spec` that was edited before, its weights aside.
fn kept(
    router: &Router,
    spec: &Value,
    record: Option<&Record>,
    weights: Weights,
) -> Result<Value, RouteError> {
    let mut next = spec.clone();
    let original = record.map(|r| &r.spec);
    if let Some(former) = router.former_shape() {
        record::turn_back(router, &former, &mut next, original);
    }
    let Some(shape) = router.shape() else { return Ok(next) };
    if original.is_some_and(shape.is_empty) {
        // Rules that we added follow the Canary, as those of a route of its own.
        let wanted = router.spec(weights)?;
        let ours = |rule: &&mut Value| shape.is_edited(&router.names, rule);
        let (added, wanted) = (shape.rules_mut(&mut next).iter_mut().filter(ours), shape.rules(&wanted));
        for (rule, wanted) in added.zip(wanted) {
            *rule = router.merged_rule(rule.take(), wanted.clone());
        }
    }
    split_rules(router, &shape, &mut next, weights);
    Ok(next)
}

fn split_rules(router: &Router, shape: &Shape, spec: &mut Value, weights: Weights) {
    for rule in shape.rules_mut(spec) {
        if matches!(shape.leads(&router.names, rule), Leads::Apex | Leads::Pair) {
            split(router, shape, rule, weights);
        }
    }
}

/// Leads a rule to both sides. Entries that do already are kept; one that is missing is copied from the owner's for the
/// apex, else from the other side's.
pub(super) fn split(router: &Router, shape: &Shape, rule: &mut Value, weights: Weights) {
    let names = &router.names;
    let made = |side: Side, from: Side, name: &str, weight: i32| {
        let found = [side, Side::Apex, from].into_iter().find_map(|s| shape.find(names, rule, s));
        let mut entry = found.cloned().unwrap_or_default();
        shape.rename(&mut entry, name);
        if entry.get("weight").and_then(weight_of) != Some(weight) {
            set(&mut entry, "weight", router.weight(weight));
        }
        entry
    };
    let mut entries = vec![
        made(Side::Primary, Side::Canary, &names.apex_primary, weights.primary),
        made(Side::Canary, Side::Primary, &names.apex_canary, weights.canary),
    ];
    let first = shape.entries(rule).first().and_then(|e| shape.side(names, e));
    if first == Some(Side::Canary) && shape.find(names, rule, Side::Primary).is_some() {
        entries.reverse();
    }
    set(rule, shape.list, Value::Array(entries));
    router.provider.routing.without_leftovers(router, rule);
}

//! The rules' entrance: from a request to an outcome, and nothing else.
//!
//! The answer comes from the request and from [`Settings`] alone, so every replica gives the same
//! one, a dry-run gets the one of the real write, and asking again about the answer changes nothing.

use super::outcome::{Outcome, Reason, Rule};
use super::review::{Operation, Request};
use super::rules::{self, deployment, enrol, service, strip};
use super::view::View;
use crate::api::keys;

/// What the decision knows besides the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The controller's user name; its writes pass untouched. Compared exactly: a field manager can
    /// be named by anyone, a user name cannot.
    pub controller_user: String,
    /// Provider of a Canary that names none, by which a CanaryPolicy is reviewed.
    pub mesh_provider: String,
}

/// By which entry of the webhook configurations the API server asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entrance {
    /// One of the installation's: the object is enrolled, or asks something of a release.
    #[default]
    Enrolled,
    /// A policy's: it selects the object.
    Policy {
        /// Name of the policy.
        name: String,
        /// Layout of what it enrols.
        layout: String,
    },
    /// A policy's that only audits.
    Audit {
        /// Name of the policy.
        name: String,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self { controller_user: keys::CONTROLLER_USER.to_owned(), mesh_provider: "istio".to_owned() }
    }
}

/// Decides about one request that came by the installation's own entries. What the rules do not speak of passes.
#[must_use]
pub fn decide(request: &Request, settings: &Settings) -> Outcome {
    decide_at(&Entrance::Enrolled, request, settings)
}

/// Decides about one request.
#[must_use]
pub fn decide_at(entrance: &Entrance, request: &Request, settings: &Settings) -> Outcome {
    if request.user_info.username == settings.controller_user || !request.sub_resource.is_empty() {
        return Outcome::pass();
    }
    let (old, new) = (View::of(&request.old_object), View::of(&request.object));
    let is_service = match (request.resource.group.as_str(), request.resource.resource.as_str()) {
        ("apps", "deployments") => false,
        ("", "services") => true,
        ("sidetrack.dev", "canarypolicies") => {
            return new.map_or_else(Outcome::pass, |new| {
                rules::policy::write(request, new, &settings.mesh_provider)
            });
        }
        ("flagger.app", "canaries") => {
            return match new {
                Some(new) => rules::request::write(request, old, new),
                None => Outcome::pass(),
            };
        }
        _ => return Outcome::pass(),
    };
    if let (Entrance::Policy { .. } | Entrance::Audit { .. }, Some(new)) = (entrance, new) {
        return if is_service { Outcome::pass() } else { enrol::enrol(request, entrance, old, new) };
    }
    match (request.operation, old, new) {
        (Operation::Create, _, Some(new)) if new.label(keys::CANARY).is_some() => strip::strip(None, new),
        (Operation::Create, _, Some(_)) | (Operation::Delete | Operation::Connect, ..) => Outcome::pass(),
        (Operation::Update, Some(old), Some(new)) if old.label(keys::CANARY).is_none() => {
            strip::strip(Some(old), new)
        }
        (Operation::Update, Some(old), Some(new)) if is_service => service::update(request, old, new),
        (Operation::Update, Some(old), Some(new)) => deployment::update(request, old, new),
        (Operation::Create | Operation::Update, ..) => Outcome::deny(
            Rule::NoObject,
            Reason::BadRequest,
            format!("the review of {} {} carries no object", request.kind.kind, request.name),
        ),
    }
}

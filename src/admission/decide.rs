//! The rules' entrance: from a request to an outcome, and nothing else.
//!
//! The answer comes from the request and from [`Settings`] alone, so every replica gives the same
//! one, a dry-run gets the one of the real write, and asking again about the answer changes nothing.

use super::outcome::{Outcome, Reason, Rule};
use super::review::{Operation, Request};
use super::rules::{self, deployment, service, strip};
use super::view::View;
use crate::api::keys;

/// What the decision knows besides the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The controller's user name; its writes pass untouched. Compared exactly: a field manager can
    /// be named by anyone, a user name cannot.
    pub controller_user: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { controller_user: keys::CONTROLLER_USER.to_owned() }
    }
}

/// Decides about one request. What the rules do not speak of passes.
#[must_use]
pub fn decide(request: &Request, settings: &Settings) -> Outcome {
    if request.user_info.username == settings.controller_user || !request.sub_resource.is_empty() {
        return Outcome::pass();
    }
    let (old, new) = (View::of(&request.old_object), View::of(&request.object));
    let is_service = match (request.resource.group.as_str(), request.resource.resource.as_str()) {
        ("apps", "deployments") => false,
        ("", "services") => true,
        ("flagger.app", "canaries") => {
            return match new {
                Some(new) => rules::request::write(request, old, new),
                None => Outcome::pass(),
            };
        }
        _ => return Outcome::pass(),
    };
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

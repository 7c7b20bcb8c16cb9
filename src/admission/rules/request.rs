//! CREATE and UPDATE of a Canary: who asks something of its release.
//!
//! The name comes from whom the API server authenticated, never from the request.

use crate::admission::outcome::{Change, Outcome, Reason, Rule};
use crate::admission::review::Request;
use crate::admission::view::View;
use crate::api::{keys, request};

/// Decides about the write: a new request is stamped, the stamp of an older one stays, and on a new Canary, which has
/// nothing that could be asked for, neither stands.
pub(in crate::admission) fn write(review: &Request, old: Option<View<'_>>, new: View<'_>) -> Outcome {
    let asked = new.annotation(keys::REQUEST);
    let wanted = match (old, asked) {
        (None, _) => return create(new),
        (Some(_), None) => None,
        (Some(old), Some(_)) if old.annotation(keys::REQUEST) == asked => old.annotation(keys::REQUESTED_BY),
        (Some(_), Some(text)) => {
            if let Err(why) = request::Request::parse(text) {
                let why = format!("annotation {}: {why}", keys::REQUEST);
                return Outcome::deny(Rule::Request, Reason::BadRequest, why);
            }
            Some(review.user_info.username.as_str())
        }
    };
    let mut outcome = Outcome::pass();
    if new.annotation(keys::REQUESTED_BY) == wanted {
        return outcome;
    }
    outcome.note(Rule::Request);
    outcome.with_changes(vec![Change::Annotation(keys::REQUESTED_BY, wanted.map(str::to_owned))])
}

fn create(new: View<'_>) -> Outcome {
    let mut outcome = Outcome::pass();
    let carried = [keys::REQUEST, keys::REQUESTED_BY].into_iter().filter(|key| new.annotation(key).is_some());
    let changes: Vec<Change> = carried.map(|key| Change::Annotation(key, None)).collect();
    if !changes.is_empty() {
        outcome.note(Rule::Request);
        outcome.warn("the request was left out: a new Canary has no release to ask anything of".to_owned());
    }
    outcome.with_changes(changes)
}

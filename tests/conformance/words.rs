//! In what form something is said: the `Promoted` condition of a phase, the Event of a message.
//!
//! Which phases there are, and which messages, is compared elsewhere; here, those that both sides have.

use super::view::{View, add_new};
use jiff::Timestamp;
use recordings::Run;
use serde_json::Value;
use sidetrack::api::Canary;
use sidetrack::controller::events;
use sim::World;

/// Between what is said and its form.
const IS: &str = " = ";
/// Events of one Canary, and of one type, after which client-go leaves some out or merges them.
const ALL: usize = 10;

fn condition(view: &mut View, status: &Value) {
    let (Some(phase), Some(all)) = (status["phase"].as_str(), status["conditions"].as_array()) else {
        return;
    };
    for promoted in all.iter().filter(|c| c["type"] == "Promoted") {
        let form = format!("{} {} {}", promoted["status"], promoted["reason"], promoted["message"]);
        add_new(view, "conditions", format!("{phase}{IS}{form}"));
    }
}

fn event(view: &mut View, text: &str, form: &str) {
    add_new(view, "events", format!("{text}{IS}{form}"));
}

/// What Flagger said.
pub(super) fn of_trace(trace: &Run) -> View {
    let mut view = View::new();
    trace.timeline("status").for_each(|entry| condition(&mut view, &entry["status"]));
    let sent = trace.list("events");
    for sent in sent {
        let text = sent["message"].as_str().unwrap();
        event(
            &mut view,
            text,
            &format!("{} {}", sent["type"].as_str().unwrap(), sent["reason"].as_str().unwrap()),
        );
    }
    // What is only logged can be told from what client-go did not send while there are few.
    let of_canary = |l: &&Value| l.get("canary").is_some() && l["level"] != "debug";
    for line in trace.list("log").iter().filter(of_canary).filter(|_| sent.len() < ALL) {
        let text = line["msg"].as_str().unwrap();
        if !sent.iter().any(|sent| sent["message"] == text) {
            event(&mut view, text, "no Event");
        }
    }
    view
}

/// What Sidetrack said.
pub(super) fn of_world(world: &World) -> View {
    let mut view = View::new();
    for status in &world.statuses {
        condition(&mut view, &serde_json::to_value(status).unwrap());
    }
    for message in &world.said {
        let sent = events::event(&Canary::default(), message, Timestamp::UNIX_EPOCH);
        let form = sent.map(|e| format!("{} {}", e.type_.unwrap(), e.reason.unwrap()));
        event(&mut view, &message.text, form.as_deref().unwrap_or("no Event"));
    }
    view
}

/// Leaves what both have said, and puts it in order.
pub(super) fn of_both(mut one: View, mut other: View) -> (View, View) {
    let is_said = |line: &str, there: &[String]| {
        let said = line.rsplit_once(IS).map(|(said, _)| said);
        there.iter().any(|line| line.rsplit_once(IS).map(|(said, _)| said) == said)
    };
    for theme in ["conditions", "events"] {
        let (ones, others) = (one.entry(theme.into()).or_default(), other.entry(theme.into()).or_default());
        ones.retain(|line| is_said(line, others));
        others.retain(|line| is_said(line, ones));
        ones.sort();
        others.sort();
    }
    (one, other)
}

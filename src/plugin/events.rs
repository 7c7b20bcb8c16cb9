//! What Sidetrack has said of a release in Events, and the API server still has.

use super::connection::Connection;
use super::screen::{Cell, Colour, Screen, Widths, age};
use super::{DONE, Out, canary_name};
use crate::clock;
use jiff::Timestamp;
use serde_json::Value;

/// Lists the Events of a Canary, the oldest first.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Events {
    /// The Canary.
    #[arg(value_parser = canary_name)]
    name: String,
}

impl Events {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        // That there is such a Canary, is asked first: of a wrong name there are no Events either.
        at.canary(&self.name).await?;
        let selector = format!("involvedObject.kind%3DCanary,involvedObject.name%3D{}", self.name);
        let uri = format!("/api/v1/namespaces/{}/events?fieldSelector={selector}", at.namespace);
        let events = at.items(&uri).await?;
        if events.is_empty() {
            eprintln!("The API server has no Events of {} any more; it keeps them for an hour.", self.name);
            return Ok(DONE);
        }
        out.text(&list(out.screen, events, clock::now()))?;
        Ok(DONE)
    }
}

/// When an Event was seen last.
fn last(event: &Value) -> Option<Timestamp> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .find_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
}

/// Lays them out, the oldest first; no message is cut.
fn list(screen: Screen, mut events: Vec<Value>, now: Timestamp) -> String {
    // Of one second they are in the order in which they came.
    let version = |event: &Value| {
        event.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(|v| v.parse::<u64>().ok())
    };
    events.sort_by_key(|event| (last(event), version(event)));
    let text = |event: &Value, field: &str| {
        event.get(field).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    };
    let head = |event: &Value| {
        let times = ["/series/count", "/count"].into_iter().find_map(|p| event.pointer(p)?.as_i64());
        let kind = text(event, "type");
        let colour = if kind == "Warning" { Colour::Bad } else { Colour::Plain };
        vec![
            Cell::new(age(last(event), now)),
            Cell::painted(kind, colour),
            Cell::new(times.unwrap_or(1).to_string()),
        ]
    };
    let headings = ["AGE", "TYPE", "TIMES"].map(Cell::new).to_vec();
    let rows: Vec<Vec<Cell>> = std::iter::once(headings).chain(events.iter().map(head)).collect();
    let heads = Widths::default().lay_out(Screen { width: None, ..screen }, &rows);
    let plain = Widths::default().lay_out(Screen::PLAIN, &rows);
    let width = plain.lines().map(str::len).max().unwrap_or(0); // colours have none
    let indent = " ".repeat(width + 2);
    let mut shown = String::new();
    let messages = std::iter::once("MESSAGE".to_owned()).chain(events.iter().map(|e| text(e, "message")));
    for ((head, bare), message) in heads.lines().zip(plain.lines()).zip(messages) {
        for (number, part) in screen.wrap(&message, &indent).into_iter().enumerate() {
            let before = match number {
                0 => format!("{head}{}", " ".repeat(indent.len().saturating_sub(bare.len()))),
                _ => indent.clone(),
            };
            shown.push_str(&format!("{before}{part}\n"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_event_stands_last_whichever_field_says_when_it_was() {
        let events = vec![
            json!({"type": "Warning", "message": "Halt", "eventTime": "2026-01-01T00:59:50.1Z",
                "series": {"count": 3, "lastObservedTime": "2026-01-01T00:59:59Z"}}),
            json!({"type": "Normal", "message": "Advance app.shop canary weight 25\n", "lastTimestamp": "2026-01-01T00:59:30Z", "count": 1}),
        ];
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let narrow = list(Screen { colour: false, width: Some(40) }, events.clone(), now);
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let shown = list(Screen::PLAIN, events, now);
        assert_eq!(words(&narrow), words(&shown), "no word is lost");
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1..],
            [
                vec!["30s", "Normal", "1", "Advance", "app.shop", "canary", "weight", "25"],
                vec!["1s", "Warning", "3", "Halt"]
            ]
        );
    }
}

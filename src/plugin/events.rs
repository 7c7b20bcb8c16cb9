//! What Sidetrack has said of a release in Events, and the API server still has.

use super::connection::Connection;
use super::screen::{Cell, Colour, age, table};
use super::{DONE, Out, canary_name};
use crate::controller::clock;
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
        out.text(&table(out.screen, &["AGE", "TYPE", "TIMES", "MESSAGE"], &rows(events, clock::now())))?;
        Ok(DONE)
    }
}

/// When an Event was seen last.
fn last(event: &Value) -> Option<Timestamp> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .find_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
}

fn rows(mut events: Vec<Value>, now: Timestamp) -> Vec<Vec<Cell>> {
    events.sort_by_key(last);
    let text = |event: &Value, field: &str| {
        event.get(field).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    };
    let row = |event: &Value| {
        let times = ["/series/count", "/count"].into_iter().find_map(|p| event.pointer(p)?.as_i64());
        let (kind, message) = (text(event, "type"), text(event, "message"));
        let colour = if kind == "Warning" { Colour::Bad } else { Colour::Plain };
        vec![
            Cell::new(age(last(event), now)),
            Cell::painted(kind, colour),
            Cell::new(times.unwrap_or(1).to_string()),
            Cell::new(message),
        ]
    };
    events.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::screen::Screen;
    use serde_json::json;

    #[test]
    fn the_latest_event_stands_last_whichever_field_says_when_it_was() {
        let events = vec![
            json!({"type": "Warning", "message": "Halt", "eventTime": "2026-01-01T00:59:50.1Z",
                "series": {"count": 3, "lastObservedTime": "2026-01-01T00:59:59Z"}}),
            json!({"type": "Normal", "message": "Advance\n", "lastTimestamp": "2026-01-01T00:59:30Z", "count": 1}),
        ];
        let shown = table(
            Screen::PLAIN,
            &["AGE", "TYPE", "TIMES", "MESSAGE"],
            &rows(events, "2026-01-01T01:00:00Z".parse().unwrap()),
        );
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1..], [vec!["30s", "Normal", "1", "Advance"], vec!["1s", "Warning", "3", "Halt"]]);
    }
}

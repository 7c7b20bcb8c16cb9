//! What the target has against what the primary runs.

use super::connection::Connection;
use super::history::stored_template;
use super::look::Name;
use super::screen::{Colour, Screen};
use super::{DONE, Out, view};
use crate::api::revision::Revision;
use anyhow::Context as _;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

/// Lines around a difference.
const CONTEXT: usize = 3;

pub(crate) async fn run(name: &Name, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
    let canary = at.typed(&name.name).await?;
    let missing = |what: &str| format!("Deployment {what} does not exist: nothing can be compared");
    let name = &canary.spec.target_ref.name;
    let target = at.deployment(name).await?.with_context(|| missing(name))?;
    let status = view::status(&canary);
    let revision = status
        .revisions
        .primary
        .with_context(|| format!("Canary {} is not initialised yet", view::name(&canary)))?;
    let runs = stored_template(&at.snapshots(view::name(&canary)).await?, &canary, &revision)?;
    let held = target.pointer("/spec/template").cloned().unwrap_or_default();
    out.text(&compare(out.screen, &runs, &held)?)?;
    Ok(DONE)
}

/// A unified difference of two templates; a sentence where there is none.
fn compare(screen: Screen, runs: &Value, held: &Value) -> anyhow::Result<String> {
    let [old, new] = [Revision::of(runs), Revision::of(held)];
    if old == new {
        return Ok(format!("The target and the primary both have revision {old}.\n"));
    }
    let [runs, held] = [serde_saphyr::to_string(runs)?, serde_saphyr::to_string(held)?];
    let mut text = format!(
        "{}\n{}\n",
        screen.paint(&format!("--- primary, revision {old}"), Colour::Bold),
        screen.paint(&format!("+++ target, revision {new}"), Colour::Bold)
    );
    let diff = TextDiff::from_lines(&runs, &held);
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        text.push_str(&screen.paint(&hunk.header().to_string(), Colour::Faint));
        text.push('\n');
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ('-', Colour::Bad),
                ChangeTag::Insert => ('+', Colour::Good),
                ChangeTag::Equal => (' ', Colour::Plain),
            };
            let line = format!("{sign}{}", change.value().trim_end_matches('\n'));
            text.push_str(&screen.paint(&screen.cut(&line), colour));
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_shown_with_both_revisions() {
        let template = |image: &str| json!({"spec": {"containers": [{"image": image, "name": "app"}]}});
        let text = compare(Screen::PLAIN, &template("app:v1"), &template("app:v2")).unwrap();
        assert!(text.contains("--- primary, revision ") && text.contains("+++ target, revision "), "{text}");
        assert!(text.lines().any(|l| l.starts_with('-') && l.ends_with("app:v1")), "{text}");
        assert!(text.lines().any(|l| l.starts_with('+') && l.ends_with("app:v2")), "{text}");
        let same = compare(Screen::PLAIN, &template("app:v1"), &template("app:v1")).unwrap();
        assert!(same.starts_with("The target and the primary both have revision"), "{same}");
    }
}

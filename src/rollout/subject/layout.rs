//! Which layout a Canary has: what its target is labelled with, else what its annotation asks for.

use crate::api::keys;
use crate::api::names::{Layout, Names};
use crate::object::{Kind, ObjectRef, Objects};
use crate::review::Review;
use serde_json::Value;

/// Returns the names in the layout that applies. A layout is for as long as the target is enrolled: another wish is
/// reported and waits, an unknown one is refused.
pub(super) fn choose(names: Names, canary: &Value, objects: &Objects, review: &mut Review) -> Names {
    let asked = match canary.pointer("/metadata/annotations").and_then(|a| a.get(keys::LAYOUT)) {
        None => Layout::default(),
        Some(text) => text.as_str().and_then(Layout::parse).unwrap_or_else(|| {
            review.refusals.push(format!(
                "annotation {} is {text}: there is no such layout; write {:?} or {:?}.",
                keys::LAYOUT,
                keys::LAYOUT_PRIMARY_COPY,
                keys::LAYOUT_IN_PLACE
            ));
            Layout::default()
        }),
    };
    let target = objects.get(&ObjectRef::new(Kind::Deployment, &names.namespace, &names.target));
    let labels = target.and_then(|t| t.pointer("/metadata/labels"));
    // What a policy's webhook has put on is taken up by whatever Canary comes.
    let by_policy = target
        .and_then(|t| t.pointer("/metadata/annotations"))
        .is_some_and(|a| a.get(keys::POLICY).is_some());
    let labels = labels.filter(|_| !by_policy);
    let enrolled = labels.and_then(|l| l.get(keys::LAYOUT)).and_then(Value::as_str).and_then(Layout::parse);
    if let Some(enrolled) = enrolled.filter(|enrolled| *enrolled != asked) {
        review.warnings.push(format!(
            "annotation {} asks for {:?}, Deployment {} is enrolled as {:?}: delete the Canary and apply it again to change the layout.",
            keys::LAYOUT,
            asked.as_str(),
            names.target,
            enrolled.as_str()
        ));
    }
    names.in_layout(enrolled.unwrap_or(asked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chosen(annotation: Option<&str>, label: Option<&str>) -> (Layout, Review) {
        let canary = json!({"metadata": {"annotations": annotation.map(|a| json!({keys::LAYOUT: a}))}});
        let target = json!({"metadata": {"labels": label.map(|l| json!({keys::LAYOUT: l}))}});
        let objects = Objects::from([(ObjectRef::new(Kind::Deployment, "test", "app"), target.into())]);
        let mut review = Review::default();
        let names = choose(Names::new("test", "app", "app", None), &canary, &objects, &mut review);
        (names.layout, review)
    }

    #[test]
    fn the_label_decides_and_then_the_annotation() {
        let none = Review::default();
        assert_eq!(chosen(None, None), (Layout::PrimaryCopy, none.clone()));
        assert_eq!(chosen(Some("in-place"), None), (Layout::InPlace, none.clone()));
        assert_eq!(chosen(Some("in-place"), Some("in-place")), (Layout::InPlace, none));
        let (layout, review) = chosen(Some("in-place"), Some("primary-copy"));
        assert_eq!((layout, review.warnings.len(), review.refusals.len()), (Layout::PrimaryCopy, 1, 0));
        assert!(review.warnings[0].contains("delete the Canary"), "{review:?}");
    }

    #[test]
    fn an_unknown_layout_is_refused() {
        let (_, review) = chosen(Some("inplace"), None);
        assert!(review.refusals[0].contains("\"inplace\""), "{review:?}");
    }
}

//! Names and label values that Kubernetes would refuse: said before anything is made.

use super::Subject;

/// The longest name of a Service, and value of a label (Kubernetes: RFC 1035 and 1123 labels).
const LABEL: usize = 63;
/// The longest name of a Deployment or a stored template (RFC 1123 subdomain).
const SUBDOMAIN: usize = 253;
/// What the name of a stored template ends in: a dash and ten digits.
const SNAPSHOT: usize = 11;

impl Subject<'_> {
    /// Says which names and values would be too long, and what to shorten.
    pub(super) fn too_long(&self) -> Vec<String> {
        let names = &self.names;
        let mut found = Vec::new();
        let mut judge = |what: &str, value: &str, longest: usize, way: &str| {
            if value.len() > longest {
                found.push(format!(
                    "{what} would be {value:?}, which has {} characters, and Kubernetes takes {longest} at most: {way}.",
                    value.len()
                ));
            }
        };
        let service = "set a shorter spec.service.name";
        judge("The primary's Service", &names.apex_primary, LABEL, service);
        judge("The canary's Service", &names.apex_canary, LABEL, service);
        let target = "give the Deployment a shorter name";
        judge("The generated Deployment", names.generated(), SUBDOMAIN, target);
        let stored = format!("{}-{}", names.target, "0".repeat(SNAPSHOT - 1));
        judge("A stored template", &stored, SUBDOMAIN, target);
        if let Some(label) = self.label() {
            judge(
                &format!("Label {} of the generated pods", label.key),
                &label.generated(names),
                LABEL,
                "give the pods of the Deployment a shorter value of it",
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use crate::api::names::Names;
    use crate::object::{Kind, ObjectRef};
    use crate::rollout::subject::testing::subject;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn what_would_be_too_long_is_named_with_its_length() {
        let mut subject = subject(&json!({}));
        assert!(subject.too_long().is_empty());
        let at = ObjectRef::new(Kind::Deployment, "test", "app");
        Arc::make_mut(subject.objects.get_mut(&at).unwrap())["spec"]["selector"]["matchLabels"]["app"] =
            "a".repeat(58).into();
        let found = subject.too_long();
        assert!(
            found.len() == 1 && found[0].contains("Label app") && found[0].contains("66 characters"),
            "{found:?}"
        );
        subject.names = Names::new("test", "app", "app", Some(&"s".repeat(56)));
        assert_eq!(subject.too_long().len(), 2, "Service {}-primary, and the label", subject.names.apex);
    }
}

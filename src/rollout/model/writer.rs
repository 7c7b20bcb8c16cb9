//! Who applied a template, in words.

use serde_json::Value;

/// Names who asked for a template, from `applied-by`: Flux's controllers by the object that they act for.
pub(super) fn writer(object: &Value, applied_by: &str) -> String {
    let label = |group: &str, key: &str| {
        object.pointer("/metadata/labels")?.get(format!("{group}.toolkit.fluxcd.io/{key}"))?.as_str()
    };
    for (manager, group, kind) in
        [("kustomize-controller ", "kustomize", "Kustomization"), ("helm-controller ", "helm", "HelmRelease")]
    {
        if let (true, Some(name), Some(namespace)) =
            (applied_by.starts_with(manager), label(group, "name"), label(group, "namespace"))
        {
            return format!("{kind} {namespace}/{name}");
        }
    }
    applied_by.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flux_is_named_by_the_object_that_it_acts_for() {
        let object = json!({"metadata": {"labels": {
            "kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        }}});
        assert_eq!(writer(&object, "kustomize-controller flux"), "Kustomization flux-system/apps");
        assert_eq!(writer(&object, "kubectl-set admin"), "kubectl-set admin");
        assert_eq!(writer(&json!({}), "kustomize-controller flux"), "kustomize-controller flux");
    }
}

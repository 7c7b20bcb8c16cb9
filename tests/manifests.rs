//! The committed manifests are what the binary prints, and say all that an API server would add.

use serde_json::Value;
use sidetrack::install::{IMAGE, installation, tree};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn objects(file: &str) -> Vec<Value> {
    let parts = installation(IMAGE).unwrap_or_default();
    parts.into_iter().filter(|(name, _)| *name == file).flat_map(|(_, objects)| objects).collect()
}

#[test]
fn committed_files_are_those_that_are_generated() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let files = tree(IMAGE).unwrap();
    for file in &files {
        let committed = fs::read_to_string(directory.join(file.name)).unwrap_or_default();
        assert!(committed == file.text, "{} is out of date: sidetrack manifests --out manifests", file.name);
    }
    let there: BTreeSet<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let generated = files.iter().map(|file| file.name.to_owned()).chain(["README.md".to_owned()]).collect();
    assert_eq!(there, generated, "a file that nothing generates, or none that explains");
}

/// Fields of `kind` that an API server fills in when a manifest leaves them out, per
/// `k8s.io/kubernetes/pkg/apis/admissionregistration/v1/defaults.go`.
#[test]
fn every_admission_field_with_a_default_is_spelled_out() {
    let mut seen = 0;
    for webhook in objects("webhook.yaml")[0]["webhooks"].as_array().unwrap() {
        seen += 1;
        for field in ["failurePolicy", "matchPolicy", "namespaceSelector", "objectSelector", "timeoutSeconds"]
        {
            assert!(webhook.get(field).is_some(), "{field}");
        }
        assert!(webhook["reinvocationPolicy"].is_string());
        assert!(webhook["clientConfig"]["service"]["port"].is_number());
        assert!(webhook["rules"].as_array().unwrap().iter().all(|rule| rule["scope"].is_string()));
    }
    for policy in objects("policy.yaml").iter().filter(|o| o["kind"] == "ValidatingAdmissionPolicy") {
        seen += 1;
        let constraints = &policy["spec"]["matchConstraints"];
        assert!(policy["spec"]["failurePolicy"].is_string());
        for field in ["matchPolicy", "namespaceSelector", "objectSelector"] {
            assert!(constraints.get(field).is_some(), "{field}");
        }
        assert!(
            constraints["resourceRules"].as_array().unwrap().iter().all(|rule| rule["scope"].is_string())
        );
    }
    assert_eq!(seen, 11);
}

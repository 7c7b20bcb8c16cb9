//! The committed manifests on a real API server, and what `sidetrack check` says of the cluster on the way.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests, which Clippy does not take for such"
)]

use anyhow::{Context, Result, ensure};
use ground::{ControlPlane, Options};
use harness::{World, canary, deployment, eventually};
use serde_json::{Value, json};
use sidetrack::check::finding::{Finding, Level};
use sidetrack::check::{findings, gather::gather};
use sidetrack::clock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs kubectl in the directory of the project; returns standard output, and standard error beside it.
async fn kubectl(cp: &ControlPlane, args: &[&str]) -> Result<(String, String)> {
    let output = cp.kubectl(args).current_dir(ROOT).output().await?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "kubectl {}: {err}", args.join(" "));
    Ok((out, err))
}

async fn get(cp: &ControlPlane, args: &[&str]) -> Result<Value> {
    let (out, _) = kubectl(cp, &[&["get", "-o", "json"], args].concat()).await?;
    Ok(serde_json::from_str(&out)?)
}

async fn look(cp: &ControlPlane) -> Result<Vec<Finding>> {
    Ok(findings(&gather(cp.client(), clock::now()).await?))
}

fn words(findings: &[Finding], level: Level) -> Vec<&str> {
    findings.iter().filter(|finding| finding.level == level).map(|finding| finding.what.as_str()).collect()
}

#[track_caller]
fn says(findings: &[Finding], level: Level, what: &str) {
    assert!(
        words(findings, level).iter().any(|w| w.contains(what)),
        "no {level:?} {what:?} in {findings:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_install_cleanly_and_check_sees_each_thing_that_is_amiss() -> Result<()> {
    let options = Options { service_account_admission: true, ..Options::default() };
    let cp = ControlPlane::start(options).await?;

    let (passed, found) = check_as(&cp, "admin", &["--pre"]).await?;
    assert!(
        passed && at_least(&found, "ok").contains(&"you may apply what is installed".to_owned()),
        "{found:#?}"
    );
    let (passed, found) = check_as(&cp, "developer", &["--pre"]).await?;
    let errors = at_least(&found, "error");
    assert!(!passed && errors.len() == 1, "{found:#?}");
    assert!(
        errors.iter().all(|e| e.contains("you may not apply") && e.contains("CustomResourceDefinition")),
        "{found:#?}"
    );

    let found = look(&cp).await?;
    for missing in ["canaries.flagger.app", "MutatingWebhookConfiguration sidetrack", "Deployment sidetrack"]
    {
        says(&found, Level::Error, missing);
    }
    says(&found, Level::Error, "ServiceAccount sidetrack has no right at all");
    says(&found, Level::Warning, "ValidatingAdmissionPolicy sidetrack is missing");
    assert!(found.iter().filter(|f| f.level == Level::Error).all(|f| !f.action.is_empty()), "{found:#?}");

    applies_cleanly(&cp).await?;
    runs_as_a_restricted_pod(&cp).await?;
    policies_type_check(&cp).await?;

    // Nothing is amiss but that no process has filled in whom to trust, and nobody answers.
    let found = look(&cp).await?;
    let errors = words(&found, Level::Error);
    says(&found, Level::Error, "webhook canarypolicies.sidetrack.dev has no caBundle");
    says(&found, Level::Error, "nobody leads: there is no Lease sidetrack");
    assert_eq!(errors.len(), 8, "{found:#?}");
    for webhook in ["deployments", "services", "canaries"].map(|of| format!("{of}.sidetrack.dev")) {
        says(&found, Level::Error, &format!("webhook {webhook} has no caBundle"));
        says(&found, Level::Error, &format!("dry-run write to webhook {webhook} failed: "));
    }
    assert_eq!(words(&found, Level::Warning), Vec::<&str>::new());

    notices_what_is_changed(&cp).await
}

async fn applies_cleanly(cp: &ControlPlane) -> Result<()> {
    let (first, warnings) = kubectl(cp, &["apply", "-k", "manifests"]).await?;
    assert_eq!(warnings, "");
    assert!(first.lines().all(|line| line.ends_with(" created")), "{first}");
    let (second, warnings) = kubectl(cp, &["apply", "-k", "manifests"]).await?;
    assert_eq!(warnings, "");
    // kubectl always writes the selector of a PodDisruptionBudget (its patch strategy is replace), with no effect.
    let same = |line: &str| {
        line.ends_with(" unchanged") || line == "poddisruptionbudget.policy/sidetrack configured"
    };
    assert!(second.lines().all(same), "{second}");
    // Exit code 1 of diff is a difference.
    kubectl(cp, &["diff", "-k", "manifests"]).await.context("a difference after the second apply")?;
    let (server_side, warnings) = kubectl(cp, &["apply", "--server-side", "-k", "manifests"]).await?;
    assert_eq!((server_side.lines().count(), warnings.as_str()), (first.lines().count(), ""));
    let versions = async || -> Result<Vec<Value>> {
        let list = get(cp, &["-k", "manifests"]).await?;
        let items = list["items"].as_array().context("no list")?.iter();
        // Status and generation change by themselves while controllers take the objects up.
        Ok(items
            .map(|item| json!([item["metadata"]["name"], item["spec"], item["webhooks"], item["rules"]]))
            .collect())
    };
    let before = versions().await?;
    kubectl(cp, &["apply", "--server-side", "-k", "manifests"]).await?;
    assert_eq!(versions().await?, before);
    let role = ["apply", "--namespace", "default", "-f", "manifests/secrets-role.yaml"];
    assert_eq!(kubectl(cp, &role).await?.1, "");
    let overlay = kubectl(cp, &["kustomize", "certs/cert-manager"]).await?.0;
    cert_manager(&ground::parse_yaml(&overlay)?);
    Ok(())
}

/// With cert-manager the files are mounted and named, and nobody but it may write the certificate.
fn cert_manager(objects: &[Value]) {
    let find =
        |kind: &str, name: &str| objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    assert!(find("Role", "sidetrack-certificates").is_none());
    assert!(find("RoleBinding", "sidetrack-certificates").is_none());
    assert!(find("Role", "sidetrack").is_some());
    let certificate = find("Certificate", "sidetrack-webhook").unwrap();
    let deployment = find("Deployment", "sidetrack").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], certificate["spec"]["secretName"]);
    let mount = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(
        pod["containers"][0]["args"],
        json!(["run", format!("--tls-cert-file={mount}/tls.crt"), format!("--tls-key-file={mount}/tls.key")])
    );
    let webhook = find("MutatingWebhookConfiguration", "sidetrack").unwrap();
    assert_eq!(
        webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"],
        "sidetrack-system/sidetrack-webhook"
    );
}

async fn runs_as_a_restricted_pod(cp: &ControlPlane) -> Result<()> {
    eventually("both pods are admitted and ready", async || {
        let live = get(cp, &["-n", "sidetrack-system", "deployment", "sidetrack"]).await?;
        Ok((live["status"]["readyReplicas"] == 2).then_some(()))
    })
    .await?;
    // The namespace refuses what is not restricted, so that the above says something.
    let run = ["-n", "sidetrack-system", "run", "careless", "--image=a"];
    let refused = kubectl(cp, &run).await.unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
    Ok(())
}

async fn policies_type_check(cp: &ControlPlane) -> Result<()> {
    for name in [
        "sidetrack",
        "sidetrack-deletion",
        "sidetrack-services",
        "sidetrack-replicasets",
        "sidetrack-requests",
    ] {
        let policy = eventually("the policy is type-checked", async || {
            let policy = get(cp, &["validatingadmissionpolicy", name]).await?;
            let seen = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            Ok((seen && policy["status"]["typeChecking"].is_object()).then_some(policy))
        })
        .await?;
        assert_eq!(policy["status"]["typeChecking"], json!({}), "{name}");
    }
    Ok(())
}

async fn notices_what_is_changed(cp: &ControlPlane) -> Result<()> {
    let patch = |path: &str, value: &str| format!(r#"[{{"op":"replace","path":"{path}","value":{value}}}]"#);
    let ignore = patch("/webhooks/0/failurePolicy", r#""Ignore""#);
    let narrow = patch("/webhooks/1/rules/0/operations", r#"["UPDATE"]"#);
    let audit = patch("/spec/validationActions", r#"["Audit"]"#);
    for args in [
        ["patch", "mutatingwebhookconfiguration", "sidetrack", "--type=json", "-p", &ignore],
        ["patch", "mutatingwebhookconfiguration", "sidetrack", "--type=json", "-p", &narrow],
        ["patch", "validatingadmissionpolicybinding", "sidetrack", "--type=json", "-p", &audit],
    ] {
        kubectl(cp, &args).await?;
    }
    kubectl(cp, &["delete", "clusterrolebinding", "sidetrack"]).await?;
    kubectl(cp, &["-n", "sidetrack-system", "scale", "deployment", "sidetrack", "--replicas=0"]).await?;
    kubectl(cp, &["delete", "crd", "alertproviders.flagger.app"]).await?;
    eventually("the roles and pods are gone", async || {
        let found = look(cp).await?;
        let gone = ["delete deployments.apps", "has 0 of 0 replicas ready"];
        let errors = words(&found, Level::Error);
        Ok(gone.iter().all(|what| errors.iter().any(|error| error.contains(what))).then_some(()))
    })
    .await?;
    let found = look(cp).await?;
    says(&found, Level::Error, "webhook deployments.sidetrack.dev has failurePolicy Ignore");
    says(&found, Level::Warning, "webhook services.sidetrack.dev is not this version's: rules[0].operations");
    says(&found, Level::Warning, "ValidatingAdmissionPolicyBinding sidetrack is not this version's");
    says(&found, Level::Error, "CustomResourceDefinition alertproviders.flagger.app is missing");
    Ok(())
}

/// Whether the binary passes, and its findings.
async fn check(cp: &ControlPlane) -> Result<(bool, Vec<Value>)> {
    check_as(cp, "admin", &[]).await
}

/// The same as somebody else.
async fn check_as(cp: &ControlPlane, user: &str, args: &[&str]) -> Result<(bool, Vec<Value>)> {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-sidetrack"))
        .args([
            "check",
            "-o",
            "json",
            "--as",
            user,
            "--as-group",
            if user == "admin" { "system:masters" } else { "developers" },
        ])
        .args(args)
        .arg("--kubeconfig")
        .arg(cp.kubeconfig("admin"))
        .output()
        .await?;
    let printed: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.success(), printed["findings"].as_array().cloned().unwrap_or_default()))
}

fn at_least(findings: &[Value], worst: &str) -> Vec<String> {
    findings
        .iter()
        .filter(|f| f["level"] == worst)
        .map(|f| f["what"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_passes_on_a_cluster_that_works_and_names_what_canaries_lack() -> Result<()> {
    let world = World::start(true).await?;
    let sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let cp = &world.cp;
    let (passed, found) = eventually("nothing is amiss", async || {
        let (passed, found) = check(cp).await?;
        // The leader needs a moment for the first certificate.
        Ok((passed || !at_least(&found, "error").iter().all(|e| e.contains("webhook")))
            .then_some((passed, found)))
    })
    .await?;
    assert!(passed, "{found:#?}");
    assert_eq!(at_least(&found, "warning"), ["PodDisruptionBudget sidetrack is missing"]);
    assert_eq!(at_least(&found, "info"), ["Deployment sidetrack is missing"]);
    assert!(
        at_least(&found, "ok")
            .contains(&"webhook deployments.sidetrack.dev answers the API server".to_owned())
    );

    let namespace = cp.namespace("check").await?;
    world.flux(deployment(&namespace, "v1", 1)).await?;
    cp.apply(canary(&namespace, &json!({}))).await?;
    world.phase(&namespace, "Initialized").await?;
    // Taking pods away took `replicas` from its applier; as any GitOps tool does, it applies again.
    world.flux(deployment(&namespace, "v1", 1)).await?;
    let mut twin = canary(&namespace, &json!({"provider": "appmesh"}));
    twin["metadata"]["name"] = "twin".into();
    cp.apply(twin).await?;
    cp.apply(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": namespace, "name": "app"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"}},
    }))
    .await?;
    cp.apply(json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"namespace": namespace, "name": "chat"},
        "spec": {"type": "slack", "secretRef": {"name": "address"}},
    }))
    .await?;
    let (passed, found) = check(cp).await?;
    assert!(!passed);
    let all = at_least(&found, "error").join("\n") + &at_least(&found, "warning").join("\n");
    for what in [
        &format!("Canary {namespace}/twin is refused"),
        &format!("Canaries app, twin in {namespace} name one target"),
        &format!("HorizontalPodAutoscaler {namespace}/app scales the target"),
        &format!("AlertProvider {namespace}/chat names Secret address"),
    ] {
        assert!(all.contains(what), "{what}: {all}");
    }
    assert!(at_least(&found, "info").iter().any(|what| what.contains("states replicas")), "{found:#?}");
    cp.run_kubectl(&["apply", "-n", &namespace, "-f", &format!("{ROOT}/manifests/secrets-role.yaml")])
        .await?;
    eventually("the Secret may be read", async || {
        let (_, found) = check(cp).await?;
        Ok((!at_least(&found, "warning").iter().any(|what| what.contains("Secret"))).then_some(()))
    })
    .await?;

    // What a Canary asks is asked by `check` too, as far as a Service of the cluster goes.
    let mut asks = canary(
        &namespace,
        &json!({"analysis": {"metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}]}}),
    );
    json_patch::merge(
        &mut asks,
        &json!({"metadata": {"name": "asks"}, "spec": {"targetRef": {"name": "later"}}}),
    );
    cp.apply(asks).await?;
    let (_, found) = check(cp).await?;
    let server = "metrics server http://prometheus:9090";
    assert!(at_least(&found, "error").contains(&format!("{server} does not exist")), "{found:#?}");
    cp.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "sidetrack-system", "name": "prometheus"},
        "spec": {"ports": [{"port": 9090}]},
    }))
    .await?;
    let (_, found) = check(cp).await?;
    assert!(at_least(&found, "warning").contains(&format!("{server} does not answer a query")), "{found:#?}");
    // Least rights are enough for all that the controller has tried.
    let log = sidetrack.logged()?;
    assert!(!log.contains("forbidden"), "{log}");
    Ok(())
}

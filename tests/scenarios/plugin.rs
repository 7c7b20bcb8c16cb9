//! `kubectl sidetrack` on a real control plane: what it prints, what it does, and its exit codes.

use anyhow::{Context as _, Result, ensure};
use harness::{World, at, deployment, image, initialized, shared, weight};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_looked_at_and_steered() -> Result<()> {
    let (world, _) = shared().await;
    let metrics = json!([{"name": "request-success-rate", "thresholdRange": {"min": 99}, "interval": "1m"}]);
    let spec = json!({"analysis": {"interval": "5m", "metrics": metrics}});
    let ns = initialized("plugin", &spec).await?;
    let run = async |args: &[&str]| world.plugin(&ns, args).await;
    let done = async |args: &[&str]| -> Result<String> {
        let said = run(args).await?;
        ensure!(said.code == 0 && said.err.is_empty(), "{args:?}: {said:?}");
        Ok(said.out)
    };

    let list = done(&["get"]).await?;
    ensure!(list.starts_with("NAME  PHASE"), "{list}");
    ensure!(list.contains("app   Initialized  0"), "{list}");
    ensure!(done(&["status", "app"]).await?.contains("promoted: The primary runs revision"));
    let none = run(&["promote", "app"]).await?;
    ensure!(none.code == 1 && none.err.contains("refused: nothing is being released"), "{none:?}");

    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    let tree = done(&["tree", "app"]).await?;
    for part in [
        "Deployment app  ",
        "app:v2  2/2 ready",
        "Deployment app-primary  ",
        "ReplicaSet app-",
        "Pod app-primary-",
        "Weight 25 set, 25 in the route; failed checks 0 of 2",
        "request-success-rate  not asked  at least 99",
        "applied by kustomize-controller flux",
        "The canary is being analysed.",
    ] {
        ensure!(tree.contains(part), "{part:?} is not in\n{tree}");
    }
    let diff = done(&["diff", "app"]).await?;
    ensure!(diff.contains("-  image: app:v1") || diff.contains("app:v1"), "{diff}");
    ensure!(diff.lines().filter(|l| l.starts_with('+') && l.contains("app:v2")).count() == 1, "{diff}");
    let open = run(&["status", "app"]).await?;
    ensure!(open.code == 4 && open.out.contains("Progressing, weight 25"), "{open:?}");
    let object: Value = serde_json::from_str(&run(&["status", "app", "-o", "json"]).await?.out)?;
    ensure!(
        at(&object, "/verdict") == "open" && at(&object, "/exitCode") == 4 && at(&object, "/weight") == 25,
        "{object}"
    );
    ensure!(tree.contains("Step 1 of 2 (25, 50 %); the next step in "), "{tree}");
    let late = run(&["status", "app", "--wait", "--timeout", "1s"]).await?;
    ensure!(late.code == 4 && late.err.contains("not decided in time"), "{late:?}");

    ensure!(done(&["pause", "app", "--reason", "lunch"]).await?.contains("taken: The run stays where it is"));
    let tree = done(&["tree", "app"]).await?;
    ensure!(tree.contains("Progressing (paused)") && tree.contains("kubectl sidetrack resume app"), "{tree}");
    let wide = done(&["get", "-o", "wide"]).await?;
    ensure!(wide.contains("pause taken (alice)"), "{wide}");
    done(&["resume", "app"]).await?;
    // A pipeline waits while somebody promotes.
    let waits = world
        .plugin_command(&ns, &["status", "app", "--wait"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    done(&["promote", "app", "--reason", "urgent"]).await?;
    let waited = waits.wait_with_output().await?;
    let lines = String::from_utf8_lossy(&waited.stdout).into_owned();
    println!("{lines}");
    ensure!(waited.status.code() == Some(0), "{lines}");
    ensure!(
        lines.lines().last().is_some_and(|l| l.contains("promoted: The primary runs revision")),
        "{lines}"
    );

    world.flux(deployment(&ns, "v3", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    done(&["abort", "app", "--reason", "looks wrong"]).await?;
    let rejected = run(&["status", "app", "--wait"]).await?;
    ensure!(rejected.code == 3 && rejected.out.contains("aborted by alice: looks wrong"), "{rejected:?}");
    let tree = done(&["tree", "app"]).await?;
    ensure!(tree.contains("held, rejected") && tree.contains("kubectl sidetrack retry app"), "{tree}");
    let history = done(&["history", "app"]).await?;
    let outcomes: Vec<&str> = history.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    ensure!(outcomes == ["rejected", "promoted", "promoted"], "{history}");
    ensure!(history.contains("app:v1") && history.contains("kustomize-controller flux"), "{history}");

    // Back to what the primary runs, then to the revision before it, which is analysed as any other.
    done(&["undo", "app"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");
    let flux = json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    world.merge(&ns, "deploy", "app", json!({"metadata": {"labels": flux}})).await?;
    let undone = done(&["undo", "canary/app"]).await?;
    ensure!(undone.contains(&format!("kubectl sidetrack status app -n {ns} --wait")), "{undone}");
    ensure!(undone.contains("flux suspend kustomization apps -n flux-system"), "{undone}");
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&target) == "app:v1");
    ensure!(at(&target, "/metadata/annotations/sidetrack.dev~1applied-by") == "sidetrack-plugin alice");
    done(&["skip", "app"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(done(&["diff", "app"]).await?.starts_with("The target and the primary both have revision"));
    ensure!(done(&["restart", "app"]).await?.contains("The primary was restarted."));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_with_what_to_type() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("wrong").await?;
    let nothing = world.plugin(&ns, &["get"]).await?;
    ensure!(
        nothing.code == 0 && nothing.err == format!("There is no Canary in namespace {ns}.\n"),
        "{nothing:?}"
    );
    let unknown = world.plugin(&ns, &["tree", "app"]).await?;
    ensure!(unknown.code == 1 && unknown.err.contains("kubectl sidetrack get -A"), "{unknown:?}");
    let undecided = world.plugin(&ns, &["status", "--timeout", "soon", "app"]).await?;
    ensure!(undecided.code == 2 && undecided.err.contains("write it like 90s or 5m"), "{undecided:?}");
    let other = world.plugin(&ns, &["tree", "deployment/app"]).await?;
    ensure!(other.code == 2 && other.err.contains("write NAME or canary/NAME"), "{other:?}");
    let nobody = world.plugin(&ns, &["get", "--as", "nobody"]).await?;
    ensure!(nobody.code == 1 && nobody.err.contains("\"nobody\" cannot list"), "{nobody:?}");
    let context = world.plugin(&ns, &["--context", "nowhere", "get"]).await?;
    ensure!(context.code == 1 && context.err.contains("nowhere"), "{context:?}");
    let script = world.plugin(&ns, &["completion", "bash"]).await?;
    ensure!(script.code == 0 && script.out.contains("promote"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_for_programs_too_and_changes_are_followed() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("programs", &json!({})).await?;
    let one = world.plugin(&ns, &["get", "app", "-o", "json"]).await?;
    let one: Value = serde_json::from_str(&one.out).context("no JSON")?;
    ensure!(at(&one, "/kind") == "Canary" && at(&one, "/status/phase") == "Initialized");
    world.merge(&ns, "canary", "app", json!({"metadata": {"labels": {"team": "checkout"}}})).await?;
    ensure!(world.plugin(&ns, &["get", "-l", "team=checkout"]).await?.out.contains("Initialized"));
    let none = world.plugin(&ns, &["get", "-l", "team=search"]).await?;
    ensure!(none.out.is_empty() && none.err.contains("no Canary with team=search"), "{none:?}");
    ensure!(world.plugin(&ns, &["get", "-o", "name"]).await?.out == "canary.flagger.app/app\n");
    let events = world.plugin(&ns, &["events", "canary.flagger.app/app"]).await?.out;
    ensure!(
        events.starts_with("AGE") && events.contains(&format!("Initialization done! app.{ns}")),
        "{events}"
    );
    let version = world.plugin(&ns, &["version"]).await?.out;
    ensure!(version.starts_with(concat!("plugin      ", env!("CARGO_PKG_VERSION"), "\n")), "{version}");
    let all = world.plugin(&ns, &["get", "-A", "-o", "yaml"]).await?;
    let all: Value = serde_saphyr::from_str(&all.out).context("no YAML")?;
    let items = at(&all, "/items").as_array().context("no list")?;
    ensure!(items.iter().any(|item| at(item, "/metadata/namespace") == ns.as_str()));

    let mut table = Follow::begin(world, &ns, &["get", "-w"])?;
    let mut objects = Follow::begin(world, &ns, &["get", "app", "-w", "-o", "json"])?;
    objects.until("\"Initialized\"").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    table.until("Succeeded").await?;
    ensure!(table.seen.iter().filter(|line| line.starts_with("NAME")).count() == 1, "{:#?}", table.seen);
    ensure!(table.seen.iter().any(|line| line.contains("Progressing")), "{:#?}", table.seen);
    objects.until("\"Succeeded\"").await?;
    world.delete(&ns, "canary", "app").await?;
    table.until("app   Deleted").await?;
    objects.until("\"deletionTimestamp\"").await?;
    // As kubectl prints them: one whole object after the other.
    let whole = objects.seen.iter().filter(|line| *line == "}").count();
    let text = objects.seen.join("\n");
    let (parsed, _) = text.rsplit_once("\n}").context("no object")?;
    let text = format!("{parsed}\n}}");
    let stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let kinds = stream.map(|o| Ok(at(&o?, "/kind") == "Canary")).collect::<Result<Vec<bool>>>()?;
    ensure!(kinds.len() == whole && kinds.iter().all(|is| *is), "{kinds:?}");
    Ok(())
}

/// A command that goes on, and what it has printed.
struct Follow {
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
    seen: Vec<String>,
    _child: tokio::process::Child,
}

impl Follow {
    fn begin(world: &World, ns: &str, args: &[&str]) -> Result<Self> {
        use tokio::io::AsyncBufReadExt as _;
        let mut child = world.plugin_command(ns, args).stdout(std::process::Stdio::piped()).spawn()?;
        let lines = tokio::io::BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { lines, seen: Vec::new(), _child: child })
    }

    /// Reads up to a line with this text.
    async fn until(&mut self, text: &str) -> Result<()> {
        let reads = async {
            while let Some(line) = self.lines.next_line().await? {
                let over = line.contains(text);
                self.seen.push(line);
                if over {
                    return Ok(());
                }
            }
            anyhow::bail!("the output ended")
        };
        let read = tokio::time::timeout(harness::PATIENCE, reads).await;
        read.map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("{text}: {}", self.seen.join("\n")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_completes_what_is_typed_after_sidetrack() -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let (world, _) = shared().await;
    let ns = initialized("complete", &json!({})).await?;
    let tools = world.cp.logs().join("tools");
    std::fs::create_dir_all(&tools)?;
    symlink(env!("CARGO_BIN_EXE_kubectl-sidetrack"), tools.join("kubectl-sidetrack"))?;
    let script = world.plugin(&ns, &["completion", "kubectl"]).await?.out;
    let executable = tools.join("kubectl_complete-sidetrack");
    std::fs::write(&executable, script)?;
    std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755))?;
    let complete = async |words: &[&str]| -> Result<Vec<String>> {
        let mut kubectl = world.cp.kubectl(&[&["__complete", "sidetrack"], words].concat());
        let own = std::path::Path::new(kubectl.as_std().get_program()).parent().context("no kubectl")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", tools.display(), own.display());
        let output = kubectl.env("PATH", path).output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("$ kubectl sidetrack {words:?}<TAB>\n{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text.lines().map(str::to_owned).collect())
    };
    ensure!(complete(&["pro"]).await? == ["promote", ":4"]);
    ensure!(complete(&["-n", &ns, "tree", ""]).await? == ["app", ":4"]);
    ensure!(complete(&["status", "app", "--wa"]).await? == ["--wait", ":4"]);
    Ok(())
}

//! A trace's input, given to the simulated cluster.

use super::view::{self, View, anchor};
use super::words;
use jiff::SignedDuration;
use recordings::Run;
use serde_json::{Value, json};
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::answers::HookAnswer;
use sim::process::scaled_to;
use std::time::Duration;

/// How long the state is waited for in which Flagger's driver acted.
const PATIENCE: i64 = 60;

/// Drives a trace and says what was done, and in what form that was told.
pub(super) fn drive(trace: &Run) -> (View, View) {
    let canary = trace.applied("Canary")[0];
    let text = |pointer: &str| canary.pointer(pointer).and_then(Value::as_str);
    let (name, target) = (text("/metadata/name").unwrap(), text("/spec/targetRef/name").unwrap());
    let mut world = World::empty(trace.namespace(), name, target, text("/spec/service/name"));
    // What is compared here breaks some invariants on purpose; they have tests of their own.
    world.laws.off = true;
    world.config.mesh_provider = trace.flag("-mesh-provider").unwrap_or("istio").into();
    world.config.metrics_server = trace.flag("-metrics-server").unwrap_or_default().into();
    world.config.drain_delay = Duration::from_secs(1);
    world.answers.dead = text("/spec/metricsServer").filter(|s| !s.contains(":9090")).map(str::to_owned);
    world.answers.metrics = metrics(trace.input("metricAnswersAtStart"));
    for (hook, answer) in trace.input("hookAnswersAtStart").as_object().into_iter().flatten() {
        answer_hook(&mut world, hook, answer);
    }
    let statuses = view::statuses(trace);
    let mut seen = 0;
    let (mut last, mut gateway) = (0.0, false);
    for action in trace.actions() {
        let t = action["t"].as_f64().unwrap();
        let before = statuses.iter().filter(|(at, _)| *at <= t).count();
        if before > seen {
            let (at, state) = &statuses[before - 1];
            let from = lines(&world).len().saturating_sub(2);
            world.run_until(PATIENCE, |w| lines(w).iter().skip(from).any(|l| anchor(l) == anchor(state)));
            (seen, last) = (before, *at);
        }
        pass(&mut world, t - last, gateway);
        last = t;
        gateway |= action["do"] == "gateway controller simulated: status follows generation";
        act(&mut world, action);
    }
    pass(&mut world, trace.end() - last, gateway);
    (view_of(&world), words::of_world(&world))
}

fn pass(world: &mut World, seconds: f64, gateway: bool) {
    let end = world.cluster.now + SignedDuration::from_secs_f64(seconds.max(0.0));
    while world.cluster.now < end {
        if gateway {
            accept_routes(world);
        }
        world.step(end);
    }
}

/// A gateway that takes up every generation of the routes that it reports on.
fn accept_routes(world: &mut World) {
    let routes: Vec<ObjectRef> =
        world.cluster.objects.keys().filter(|at| at.kind == sidetrack::router::HTTP_ROUTE).cloned().collect();
    for at in routes {
        let mut route = world.cluster.get(&at).cloned().unwrap();
        let generation = route["metadata"]["generation"].clone();
        let parents = route.pointer_mut("/status/parents").and_then(Value::as_array_mut);
        for condition in parents.into_iter().flatten().flat_map(|p| p["conditions"].as_array_mut().unwrap()) {
            condition["observedGeneration"] = generation.clone();
        }
        world.cluster.store(&at, route, None);
    }
}

/// The statuses of the Canary, one line each.
fn lines(world: &World) -> Vec<String> {
    let mut lines: Vec<String> = world
        .statuses
        .iter()
        .map(|s| format!("{} weight {} failed {}", s.phase.as_str(), s.canary_weight, s.failed_checks))
        .collect();
    lines.dedup();
    lines.push(String::new());
    lines
}

fn metrics(table: &Value) -> Vec<(String, Value)> {
    let rows = table.as_array().into_iter().flatten();
    rows.map(|r| (r[0].as_str().unwrap().to_owned(), r[1].clone())).collect()
}

fn answer_hook(world: &mut World, hook: &str, answer: &Value) {
    let old = world.answers.hooks.get(hook).cloned();
    let mut next =
        old.unwrap_or(HookAnswer { code: 200, body: "{}".into(), delay: SignedDuration::from_millis(20) });
    if let Some(code) = answer["code"].as_u64() {
        next.code = u16::try_from(code).unwrap();
    }
    if let Some(body) = answer["body"].as_str() {
        next.body = body.into();
    }
    world.answers.hooks.insert(hook.into(), next);
}

fn at(world: &World, action: &Value) -> Option<ObjectRef> {
    let kind = action["kind"].as_str()?;
    let routed = |k: &Kind| k.as_str() == kind;
    let kind = Kind::OWN.into_iter().chain(sidetrack::router::kinds()).find(routed)?;
    Some(ObjectRef::new(kind, &world.names.namespace, action["name"].as_str()?))
}

fn act(world: &mut World, action: &Value) {
    world.note(format!("-- {} {} {}", action["do"], action["kind"], action["name"]));
    match action["do"].as_str().unwrap() {
        "apply" => apply(world, action["object"].clone()),
        "merge-patch" => {
            let Some(at) = at(world, action) else { return };
            let patch = action["patch"].clone();
            let _ = world.edit(&at, |object| json_patch::merge(object, &patch));
        }
        "delete" => {
            if let Some(at) = at(world, action) {
                world.delete(&at);
            }
        }
        "hook-answer" => answer_hook(world, action["hook"].as_str().unwrap(), &action["set"]),
        "metric-answers" => world.answers.metrics = metrics(&action["metrics"]),
        "pods-not-ready" => {
            let count = usize::try_from(action["set"].as_u64().unwrap()).unwrap();
            world.set_ready(action["name"].as_str().unwrap(), false, count);
        }
        "SIGKILL controller" => world.kill(),
        "start controller" => world.start(),
        _ => {}
    }
}

/// Applies what the simulated cluster knows; others change nothing that is compared.
fn apply(world: &mut World, mut object: Value) {
    object["metadata"]["namespace"] = world.names.namespace.clone().into();
    if let Some(plain) = object.as_object_mut().and_then(|o| o.remove("stringData")) {
        use base64::Engine as _;
        let encode = |text: &Value| base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap());
        for (key, value) in plain.as_object().unwrap() {
            object["data"][key] = encode(value).into();
        }
    }
    if sidetrack::router::address(&object).is_some() {
        world.apply(object);
    }
}

/// What Sidetrack did.
fn view_of(world: &World) -> View {
    let mut view = View::new();
    for line in lines(world).into_iter().filter(|l| !l.is_empty()) {
        view::add(&mut view, "statuses", line);
    }
    for message in &world.said {
        view::message(&mut view, &message.text);
    }
    for call in &world.answers.calls {
        if let Some(line) = view::hook(&call.to, &call.body) {
            view::add(&mut view, "hooks", line);
        }
    }
    for query in &world.answers.queries {
        view::add_new(&mut view, "queries", query.clone());
    }
    for (write, after) in &world.written {
        let at = write.target().unwrap();
        if view::is_own(at.kind.as_str()) {
            continue;
        }
        if let Some(replicas) = scaled_to(write) {
            view::add(
                &mut view,
                &format!("object Scale {}", at.name),
                json!({"replicas": replicas}).to_string(),
            );
        } else if (at.kind != Kind::Deployment || at.name == world.names.primary)
            && let Some((theme, line)) = after.as_ref().and_then(view::object)
        {
            view::add(&mut view, &theme, line);
        }
    }
    view
}

//! The apex Service row.

use crate::admission::outcome::Rule;
use crate::admission::testing::Write;
use crate::api::keys;
use serde_json::{Value, json};

fn port(name: &str, number: u16) -> Value {
    json!({"name": name, "port": number, "protocol": "TCP", "targetPort": 8080})
}

fn ports(asked: Value) -> crate::admission::testing::Answered {
    Write::service().asks(json!({"spec": {"ports": asked}})).run()
}

#[test]
fn the_selector_stays() {
    let answer = Write::service().asks(json!({"spec": {"selector": {"app": "app-primary", "x": "y"}}})).run();
    assert_eq!(answer.object["spec"]["selector"], json!({"app": "app-primary"}));
    assert_eq!(answer.outcome.rules, [Rule::Service]);
    assert!(answer.warned_of("selector of Service app was kept"));
    let removed = Write::service().asks(json!({"spec": {"selector": null}})).run();
    assert_eq!(removed.object["spec"]["selector"], json!({"app": "app-primary"}));
    let none = Write::service().stored(json!({"spec": {"selector": null}}));
    assert!(
        none.asks(json!({"spec": {"selector": {"a": "b"}}})).run().object["spec"].get("selector").is_none()
    );
}

#[test]
fn label_and_ports_key_stay() {
    let answer =
        Write::service().asks(json!({"metadata": {"labels": null, "annotations": {keys::PORTS: "x"}}})).run();
    assert_eq!(answer.object["metadata"]["labels"], json!({keys::CANARY: "app"}));
    assert_eq!(answer.annotation(keys::PORTS), Some("http"));
    assert_eq!(answer.outcome.rules, [Rule::Restore]);
}

#[test]
fn the_rest_passes_b10() {
    assert!(Write::service().asks(json!({"spec": {"sessionAffinity": "ClientIP"}})).run().passes_untouched());
    assert!(ports(json!([port("http", 80), port("metrics", 9090)])).passes_untouched());
    assert!(ports(json!([port("metrics", 9090), port("http", 80)])).passes_untouched());
}

#[test]
fn a_changed_canary_port_is_kept_at_every_apply_b9() {
    let first = ports(json!([port("http", 81), port("extra", 9090)]));
    assert_eq!(first.object["spec"]["ports"], json!([port("http", 80), port("extra", 9090)]));
    assert!(first.warned_of("ports of Service app"));
    // The second apply arrives merged by port number: the name would be there twice.
    let merged = json!([port("http", 80), port("http", 81), port("extra", 9090)]);
    let second = Write::update(first.object).asks(json!({"spec": {"ports": merged}})).run();
    assert_eq!(second.object["spec"]["ports"], json!([port("http", 80), port("extra", 9090)]));
}

#[test]
fn a_port_that_takes_the_canarys_number_is_left_out_b9() {
    let answer = ports(json!([port("web", 80)]));
    assert_eq!(answer.object["spec"]["ports"], json!([port("http", 80)]));
    let without_protocol = ports(json!([{"name": "web", "port": 80}]));
    assert_eq!(without_protocol.object["spec"]["ports"], json!([port("http", 80)]));
    let udp = json!({"name": "quic", "port": 80, "protocol": "UDP"});
    assert!(ports(json!([port("http", 80), udp])).passes_untouched());
}

#[test]
fn a_changed_target_port_is_put_back() {
    let mut other = port("http", 80);
    other["targetPort"] = json!(9999);
    assert_eq!(ports(json!([other])).object["spec"]["ports"], json!([port("http", 80)]));
}

#[test]
fn a_removed_canary_port_comes_back() {
    let answer = ports(json!(null));
    assert_eq!(answer.object["spec"]["ports"], json!([port("http", 80)]));
}

#[test]
fn several_canary_ports_are_known_by_name() {
    let write = Write::service()
        .with(json!({keys::PORTS: "http, grpc"}))
        .stored(json!({"spec": {"ports": [port("http", 80), port("grpc", 81), port("own", 82)]}}));
    let answer = write.clone().asks(json!({"spec": {"ports": [port("http", 80)]}})).run();
    assert_eq!(answer.object["spec"]["ports"], json!([port("http", 80), port("grpc", 81)]));
    let unknown =
        write.with(json!({keys::PORTS: null})).asks(json!({"spec": {"ports": [port("a", 1)]}})).run();
    assert!(unknown.passes_untouched(), "without the key no port is known to be the Canary's");
}

#[test]
fn a_service_that_is_not_ours_is_left_alone() {
    let plain = Write::service().stored(json!({"metadata": {"labels": null, "annotations": null}}));
    assert!(plain.asks(json!({"spec": {"selector": {"a": "b"}}})).run().passes_untouched());
}

#[test]
fn what_its_owner_asks_for_is_what_it_goes_back_to() {
    let adopted = Write::service()
        .with(json!({keys::ORIGINAL: r#"{"selector":{"app":"app"},"ports":{"TCP/80":"web"}}"#}));
    let asks = |selector: Value| adopted.clone().asks(json!({"spec": {"selector": selector}})).run();
    let record = |text: Option<&str>| serde_json::from_str::<Value>(text.unwrap()).unwrap();
    let answer = asks(json!({"app": "app", "tier": "web"}));
    assert_eq!(answer.object["spec"]["selector"], json!({"app": "app-primary"}));
    assert_eq!(
        record(answer.annotation(keys::ORIGINAL)),
        json!({"selector": {"app": "app", "tier": "web"}, "ports": {"TCP/80": "web"}})
    );
    // An apply that states no annotations, as a PUT does.
    let put = adopted.clone().asks(json!({"metadata": {"annotations": {keys::ORIGINAL: null}}})).run();
    assert_eq!(record(put.annotation(keys::ORIGINAL))["selector"], json!({"app": "app"}));
}

/// An owner's port without a name is not one of a Canary that defines none, and one that only got a name stays his as well.
#[test]
fn an_owners_ports_stay_his() {
    let unnamed = |port: u16| json!({"port": port, "protocol": "TCP", "targetPort": 8080});
    let none =
        Write::service().with(json!({keys::PORTS: ""})).stored(json!({"spec": {"ports": [unnamed(80)]}}));
    assert!(none.clone().asks(json!({"spec": {"ports": [unnamed(81)]}})).run().passes_untouched());
    let named = json!([port("web", 80), port("adm", 9000)]);
    assert!(none.asks(json!({"spec": {"ports": named}})).run().passes_untouched());
    let given = Write::service()
        .with(json!({keys::PORTS: "http", keys::ORIGINAL: r#"{"ports":{"TCP/8080":""}}"#}))
        .stored(json!({"spec": {"ports": [port("tcp-8080", 8080), port("http", 80)]}}));
    let mut wish = unnamed(8080);
    wish["targetPort"] = 8081.into();
    let answer = given.asks(json!({"spec": {"ports": [wish]}})).run();
    let mut kept = port("tcp-8080", 8080);
    kept["targetPort"] = 8081.into();
    assert_eq!(answer.object["spec"]["ports"], json!([port("http", 80), kept]));
}

//! Promotions without analysis: what is skipped is the judging, not the canary.

use sidetrack::api::status::Phase;
use sim::World;
use sim::manifests::canary;

/// I2, §5.4: a canary that lacks a pod is not promoted, also when nobody asks for an analysis any more.
#[test]
fn skipping_the_analysis_waits_for_the_canary() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.set_ready("app", false, 1);
    world.edit_canary("/spec/skipAnalysis", true.into());
    world.run(30);
    assert_eq!(world.image("app-primary"), "v1", "{}", world.tail());
    world.set_ready("app", true, 1);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

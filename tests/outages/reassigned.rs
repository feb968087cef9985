//! Tests that clients notice a registry that lost its data and assigns ids again.

use agentgov_connect::SchemaRegistry;
use agentgov_testenv::Part;

use crate::load::Load;
use crate::stack::stack;
use crate::stage::{Stage, all_ready, start_stages};

#[test]
fn reassigned_schema_id_ends_every_stage_and_decision_point() {
    let Some(stack) = stack() else { return };
    let load = Load::start(&stack);
    let mut stages = start_stages(&stack);
    stages.push(Stage::start_decision_point(&stack));
    all_ready("at the start", &stages);
    load.wait_for_sessions(40);

    let (now, kept) = (stack.data.path().join("registry"), stack.data.path().join("registry.kept"));
    stack.env.kill(Part::Registry).unwrap();
    std::fs::rename(&now, &kept).unwrap();
    std::fs::create_dir(&now).unwrap();
    stack.env.restart(Part::Registry).unwrap();
    let registry = SchemaRegistry::new(&stack.endpoints.schema_registry).unwrap();
    for id in 0..40 {
        let schema = format!(r#"{{"type":"record","name":"Other{id}","fields":[]}}"#);
        registry.register(&format!("other-{id}"), &schema).unwrap();
    }
    for stage in stages {
        let name = stage.name;
        let (code, log) = stage.end();
        assert_eq!(code, Some(82), "{name}: {log}");
        assert!(log.contains("expected the schema with fingerprint"), "{name}: {log}");
    }

    stack.env.kill(Part::Registry).unwrap();
    std::fs::remove_dir_all(&now).unwrap();
    std::fs::rename(&kept, &now).unwrap();
    stack.env.restart(Part::Registry).unwrap();
    let stages = start_stages(&stack);
    all_ready("with the registry as it was", &stages);
    load.stop();
    stack.wait_for_complete_log(&stages);
}

//! The service files and the mission that are shipped: they parse, they fit together, and they start in order.

use std::fs;
use std::path::Path;

use perigee_core::mission;
use perigee_core::service::Graph;
use perigee_core::spec::{self, Spec};

fn house() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn specs() -> Vec<Spec> {
    let mut specs = Vec::new();
    for entry in fs::read_dir(house().join("rootfs/services")).expect("rootfs/services") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let text = fs::read_to_string(&path).expect("a service file");
        match spec::parse(&name, &path.to_string_lossy(), &text) {
            Ok(spec) => specs.push(spec),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!specs.is_empty());
    specs
}

#[test]
fn every_service_file_parses_and_they_fit_together_for_all_roles() {
    for roles in [vec!["control-plane", "worker"], vec!["control-plane"], vec!["worker"]] {
        let roles: Vec<String> = roles.into_iter().map(str::to_owned).collect();
        match Graph::new(specs(), &roles) {
            Ok(graph) => {
                let control_plane = roles.iter().any(|role| role == "control-plane");
                assert_eq!(graph.find("etcd").is_some(), control_plane);
                assert!(graph.find("kubelet").is_some());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_variable_of_the_service_files_has_a_value_on_every_node() {
    let path = house().join("mission.toml");
    let text = fs::read_to_string(&path).expect("mission.toml");
    let mission = mission::parse("mission.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    for node in &mission.nodes {
        let variables = mission.variables(node);
        assert_eq!(variables.keys().copied().collect::<Vec<_>>(), mission::VARIABLES);
        for spec in specs() {
            for text in spec.exec.iter().chain(spec.env.values()) {
                mission::expand(text, &variables).unwrap_or_else(|error| panic!("{}: {error}", spec.name));
            }
        }
    }
}

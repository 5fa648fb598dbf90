//! Service files into a graph. In orbit a mistake in one of them costs that service, never the node: it is logged and
//! skipped, and the others start without it.

use std::fs;
use std::path::Path;

use perigee_core::mission::{self, Variables};
use perigee_core::service::{Graph, GraphError};
use perigee_core::spec::{self, Spec};

use crate::logs::Logs;

const FOLDER: &str = "/etc/perigee/services";

/// The graph of all usable services.
///
/// # Errors
/// None that can happen: a graph without any service can be built.
pub fn load(variables: &Variables, roles: &[String], logs: &mut Logs) -> Result<Graph, GraphError> {
    let mut specs = read(Path::new(FOLDER), variables, logs);
    detach(&mut specs, logs);
    Graph::new(specs.clone(), roles).or_else(|error| {
        logs.event(format_args!("services=unordered error=\"{error}\""));
        for spec in &mut specs {
            spec.after.clear();
            spec.hold = None;
        }
        Graph::new(specs, roles).or_else(|error| {
            logs.event(format_args!("services=none error=\"{error}\""));
            Graph::new(Vec::new(), roles)
        })
    })
}

/// All files that can be used with these variables.
fn read(folder: &Path, variables: &Variables, logs: &mut Logs) -> Vec<Spec> {
    let Ok(entries) = fs::read_dir(folder).inspect_err(|error| {
        logs.event(format_args!("services=unreadable folder={} error=\"{error}\"", folder.display()));
    }) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut specs = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match read_one(&path, &name, variables) {
            Ok(spec) => specs.push(spec),
            Err(error) => logs.event(format_args!("service={name} skipped=yes error=\"{error}\"")),
        }
    }
    specs
}

fn read_one(path: &Path, name: &str, variables: &Variables) -> Result<Spec, String> {
    let file = path.to_string_lossy();
    let text = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
    let spec = spec::parse(name, &file, &text).map_err(|error| error.to_string())?;
    // Without a mission there are no variables; better known now than at each start.
    for text in spec.exec.iter().chain(spec.env.values()).chain(&spec.directories) {
        mission::expand(text, variables).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(spec)
}

/// Takes what was skipped out of the others' `after` and `hold`.
fn detach(specs: &mut [Spec], logs: &mut Logs) {
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    let mut known = |service: &str, name: &String| {
        let known = names.contains(name);
        if !known {
            logs.event(format_args!("service={service} starts_without={name}"));
        }
        known
    };
    for spec in specs {
        spec.after.retain(|name| known(&spec.name, name));
        spec.hold.take_if(|hold| !known(&spec.name, &hold.until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("perigee-init-load-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_mistake_costs_its_own_service_only() {
        let folder = folder(
            "mistake",
            &[
                ("good.toml", "description = \"x\"\nexec = [\"/bin/good\"]\nafter = [\"bad\"]\n"),
                ("bad.toml", "description = \"x\"\nexec = 7\n"),
                ("needy.toml", "description = \"x\"\nexec = [\"/bin/needy\", \"${NODE_NAME}\"]\n"),
                ("notes.txt", "no service"),
            ],
        );
        let mut logs = Logs::new();
        let mut specs = read(&folder, &Variables::new(), &mut logs);
        assert_eq!(specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["good"]);
        detach(&mut specs, &mut logs);
        assert!(specs[0].after.is_empty());
        let said = logs.text("init", 10_000).unwrap();
        assert!(said.contains("service=bad skipped=yes"), "{said}");
        assert!(said.contains("service=needy skipped=yes"), "{said}");
        assert!(said.contains("service=good starts_without=bad"), "{said}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_folder_is_a_node_without_services() {
        assert_eq!(read(Path::new("/nonexistent"), &Variables::new(), &mut Logs::new()), []);
    }
}

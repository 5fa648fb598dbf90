//! Service files, checked as the node will read them: a mistake is an error here, not in orbit.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use perigee_core::mission::{CONTROL_PLANE, WORKER};
use perigee_core::service::Graph;
use perigee_core::spec::{self, Spec};

/// All service files of `folder`, each sound by itself and sound together on a node of every set of roles.
pub fn load(folder: &Path) -> Result<Vec<Spec>> {
    let mut specs = Vec::new();
    for path in crate::tree::files(folder)? {
        let file = folder.join(&path);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let name = path.to_str().and_then(|name| name.strip_suffix(".toml"));
        let name = name.with_context(|| format!("{}: a service file's name ends with .toml", file.display()))?;
        specs.push(spec::parse(name, &file.display().to_string(), &text)?);
    }
    for roles in [&[CONTROL_PLANE, WORKER][..], &[CONTROL_PLANE], &[WORKER]] {
        let roles: Vec<String> = roles.iter().map(|&role| role.to_owned()).collect();
        Graph::new(specs.clone(), &roles)
            .with_context(|| format!("{} on a node with the roles {}", folder.display(), roles.join(", ")))?;
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_files_of_this_repository_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs/services");
        assert!(!load(&folder).unwrap().is_empty());
    }
}

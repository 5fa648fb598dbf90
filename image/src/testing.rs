//! What several modules' tests share.

use std::path::{Path, PathBuf};

use perigee_core::mission::{self, Mission};

/// A folder of one test's own, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("perigee-image-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A control-plane node and a worker.
pub const MISSION: &str = r#"
name = "pair"
[[node]]
name = "node-1"
roles = ["control-plane", "worker"]
address = "10.0.2.15/24"
[[node]]
name = "node-2"
roles = ["worker"]
address = "10.0.2.16/24"
"#;

pub fn parsed(text: &str) -> Mission {
    mission::parse("mission.toml", text).unwrap()
}

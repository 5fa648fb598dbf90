//! The cluster from outside: `kubectl` with the administrator's certificate, through a forwarded port.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest time that one answer may take: under TCG a busy API server takes seconds.
const REQUEST_TIMEOUT: &str = "--request-timeout=20s";

/// A way to ask a cluster's API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubectl {
    /// The program, built from the node's own Kubernetes source.
    pub program: PathBuf,
    /// Who asks.
    pub kubeconfig: PathBuf,
    /// Port on 127.0.0.1 that leads to an API server.
    pub port: u16,
}

impl Kubectl {
    /// Runs `kubectl` with `args`; gives what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args([format!("--server=https://127.0.0.1:{}", self.port).as_str(), REQUEST_TIMEOUT])
            .args(args)
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `GET` of one path of the API.
    pub fn get(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path])
    }

    /// `GET` of one object or list of the API.
    pub fn get_json(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.get(path)?).with_context(|| format!("{path}: not JSON"))
    }

    /// Whether the API server says that it is ready.
    pub fn api_ready(&self) -> Result<()> {
        self.get("/readyz").map(drop)
    }

    /// Names of the nodes that are Ready.
    pub fn ready_nodes(&self) -> Result<Vec<String>> {
        Ok(ready(&self.get_json("/api/v1/nodes")?))
    }

    /// What the demo answers when it has asked itself by its Service's DNS name.
    pub fn demo(&self) -> Result<String> {
        self.get("/api/v1/namespaces/default/services/demo:80/proxy/via-service")
    }
}

/// Names of those objects of a list whose condition `Ready` is `True`.
fn ready(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let is_ready = |item: &&Value| {
        let conditions = item["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    items.filter(is_ready).filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nodes_whose_condition_is_true_are_ready() {
        let node = |name: &str, status: &str| {
            json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": status}]}})
        };
        let list = json!({"items": [node("a", "True"), node("b", "False"), node("c", "Unknown"), {"metadata": {}}]});
        assert_eq!(ready(&list), ["a"]);
        assert_eq!(ready(&json!({})), Vec::<String>::new());
    }

    #[test]
    fn a_refused_request_says_what_was_asked() {
        let kubectl = Kubectl { program: "false".into(), kubeconfig: "/none".into(), port: 1 };
        assert!(kubectl.get("/readyz").unwrap_err().to_string().contains("get --raw /readyz"));
    }
}

//! A node's own part of the mission, on a partition of its own: certificates, kubeconfigs, configuration files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use perigee_core::mission::{CONTROL_PLANE, Mission, Node, expand};
use perigee_core::spec::Spec;

use crate::erofs::{self, Packing};
use crate::gpt::Guid;
use crate::kubeconfig::Kubeconfig;
use crate::pki::node_path;
use crate::tree::{PUBLIC, SECRET, Tree};

/// Some tens of small files: there is nothing to win by compressing them.
const PACKING: Packing = Packing { compressor: None, cluster_bytes: 0, hints: &[] };
/// Where it is mounted on the node.
const MOUNT_POINT: &str = "/config/";

/// Certificates with their keys: those of every node, and those of the control plane.
const PAIRS: [&str; 2] = ["kubelet", "agent"];
const CONTROL_PLANE_PAIRS: [&str; 7] = [
    "addons",
    "apiserver",
    "apiserver-kubelet-client",
    "etcd",
    "front-proxy-client",
    "kube-controller-manager",
    "kube-scheduler",
];
/// Files that are the same on every node: whom to believe. No authority's key is among them.
const SHARED: [&str; 2] = ["ca.crt", "agent-ca.crt"];
const CONTROL_PLANE_SHARED: [&str; 3] = ["etcd-ca.crt", "front-proxy-ca.crt", "sa.pub"];
/// Signs service accounts' tokens.
const CONTROL_PLANE_SECRET: &str = "sa.key";
/// Kubeconfigs, by file and by the certificate in it.
const KUBECONFIGS: [(&str, &str); 2] = [("kubelet", "kubelet-client"), ("kube-proxy", "kube-proxy")];
const CONTROL_PLANE_KUBECONFIGS: [(&str, &str); 3] =
    [("controller-manager", "controller-manager"), ("scheduler", "scheduler"), ("addons", "addons")];

/// What a node's configuration is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `mission.toml` as the user wrote it.
    pub text: &'a str,
    /// The same, checked.
    pub mission: &'a Mission,
    /// Whose.
    pub node: &'a Node,
    /// The folder that [`crate::pki::ensure`] keeps.
    pub pki: &'a Path,
    /// Who signs slots, 32 bytes.
    pub slot_key: &'a [u8],
    /// `rootfs/config`.
    pub templates: &'a Path,
    /// The service files, for what they expect to find.
    pub specs: &'a [Spec],
}

/// Packs the configuration into a file in `work`, a folder that is made anew; returns the file.
pub fn build(mkfs: &Path, work: &Path, sources: &Sources<'_>) -> Result<PathBuf> {
    if work.exists() {
        fs::remove_dir_all(work).with_context(|| format!("remove {}", work.display()))?;
    }
    fs::create_dir_all(work).with_context(|| format!("create {}", work.display()))?;
    let tree = Tree::new(work.join("tree"))?;
    stage(&tree, sources)?;
    let image = work.join("config.erofs");
    let uuid = Guid::derive(&["config", &sources.mission.name, &sources.node.name]).to_string();
    run(&mut erofs::command(mkfs, &PACKING, None, &uuid, tree.root(), &image))?;
    // Private keys: no longer there than needed.
    fs::remove_dir_all(tree.root())?;
    Ok(image)
}

fn stage(tree: &Tree, sources: &Sources<'_>) -> Result<()> {
    let node = sources.node;
    tree.file("/mission.toml", sources.text, PUBLIC)?;
    tree.file("/node", format!("{}\n", node.name), PUBLIC)?;
    tree.file("/slot.pub", sources.slot_key, PUBLIC)?;
    stage_pki(tree, sources, &SHARED, &PAIRS)?;
    stage_kubeconfigs(tree, sources, &KUBECONFIGS)?;
    if node.has_role(CONTROL_PLANE) {
        stage_pki(tree, sources, &CONTROL_PLANE_SHARED, &CONTROL_PLANE_PAIRS)?;
        tree.copy(&sources.pki.join(CONTROL_PLANE_SECRET), &format!("/pki/{CONTROL_PLANE_SECRET}"), SECRET)?;
        stage_kubeconfigs(tree, sources, &CONTROL_PLANE_KUBECONFIGS)?;
    }
    let variables = sources.mission.variables(node);
    for path in crate::tree::files(sources.templates)? {
        let file = sources.templates.join(&path);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let mut rendered = String::with_capacity(text.len());
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            rendered += &expand(line, &variables).with_context(|| format!("{}:{number}", file.display()))?;
        }
        tree.file(&format!("/etc/{}", path.display()), &rendered, PUBLIC)?;
        check_references(tree, &rendered).with_context(|| format!("{}", file.display()))?;
    }
    for spec in sources.specs.iter().filter(|spec| selected(spec, node)) {
        for text in spec.exec.iter().chain(spec.env.values()) {
            check_references(tree, text).with_context(|| format!("service {} on {}", spec.name, node.name))?;
        }
    }
    Ok(())
}

fn stage_pki(tree: &Tree, sources: &Sources<'_>, shared: &[&str], pairs: &[&str]) -> Result<()> {
    for name in shared {
        tree.copy(&sources.pki.join(name), &format!("/pki/{name}"), PUBLIC)?;
    }
    for name in pairs {
        let path = node_path(&sources.node.name, name);
        tree.copy(&sources.pki.join(format!("{path}.crt")), &format!("/pki/{name}.crt"), PUBLIC)?;
        tree.copy(&sources.pki.join(format!("{path}.key")), &format!("/pki/{name}.key"), SECRET)?;
    }
    Ok(())
}

fn stage_kubeconfigs(tree: &Tree, sources: &Sources<'_>, files: &[(&str, &str)]) -> Result<()> {
    let variables = sources.mission.variables(sources.node);
    let server = variables.get("API_SERVER").context("core::mission has no variable API_SERVER")?;
    for (file, certificate) in files {
        let text = kubeconfig(sources.pki, &sources.mission.name, server, &node_path(&sources.node.name, certificate))?;
        tree.file(&format!("/kubeconfig/{file}.conf"), text, SECRET)?;
    }
    Ok(())
}

/// The kubeconfig of the holder of the certificate at `path` in the folder `pki`.
pub fn kubeconfig(pki: &Path, cluster: &str, server: &str, path: &str) -> Result<String> {
    let read = |file: String| {
        let file = pki.join(file);
        fs::read(&file).with_context(|| format!("read {}", file.display()))
    };
    let user = path.rsplit('/').next().unwrap_or(path);
    let (authority, certificate, key) =
        (read("ca.crt".into())?, read(format!("{path}.crt"))?, read(format!("{path}.key"))?);
    let kubeconfig = Kubeconfig { cluster, server, user, authority: &authority, certificate: &certificate, key: &key };
    Ok(kubeconfig.to_string())
}

fn selected(spec: &Spec, node: &Node) -> bool {
    spec.roles.is_empty() || spec.roles.iter().any(|role| node.has_role(role))
}

/// Fails when `text` speaks of a path below `/config` that the tree does not have.
fn check_references(tree: &Tree, text: &str) -> Result<()> {
    let missing: BTreeSet<_> = references(text).filter(|path| !tree.host(path).exists()).collect();
    ensure!(
        missing.is_empty(),
        "nothing will be at {}",
        missing.iter().map(|path| format!("/config{path}")).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// Paths below `/config` that `text` speaks of, without `/config`.
fn references(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(MOUNT_POINT).map(|(start, _)| {
        let path = &text[start + MOUNT_POINT.len() - 1..];
        let end = path.find(|c: char| !c.is_ascii_alphanumeric() && !"/.-_".contains(c)).unwrap_or(path.len());
        &path[..end]
    })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{MISSION, Scratch, parsed};
    use crate::{pki, services};

    fn staged(node: &str, templates: &Path, scratch: &Scratch) -> Result<Tree> {
        let mission = parsed(MISSION);
        let pki = scratch.path().join("pki");
        pki::ensure(&pki, &mission)?;
        let specs = services::load(&repo("rootfs/services"))?;
        let tree = Tree::new(scratch.path().join("tree"))?;
        let node = mission.node(node).unwrap();
        let sources =
            Sources { text: MISSION, mission: &mission, node, pki: &pki, slot_key: b"key", templates, specs: &specs };
        stage(&tree, &sources)?;
        Ok(tree)
    }

    fn repo(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    fn names(tree: &Tree, folder: &str) -> Vec<String> {
        crate::tree::files(&tree.host(folder)).unwrap().iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_worker_gets_only_what_it_needs() {
        let scratch = Scratch::new("config-worker");
        let tree = staged("node-2", &repo("rootfs/config"), &scratch).unwrap();
        assert_eq!(
            names(&tree, "pki"),
            ["agent-ca.crt", "agent.crt", "agent.key", "ca.crt", "kubelet.crt", "kubelet.key"]
        );
        assert_eq!(names(&tree, "kubeconfig"), ["kube-proxy.conf", "kubelet.conf"]);
        let kubelet = fs::read_to_string(tree.host("/kubeconfig/kubelet.conf")).unwrap();
        assert!(kubelet.contains("server: \"https://10.0.2.15:6443\""), "{kubelet}");
    }

    #[test]
    fn a_control_plane_node_gets_no_authoritys_key() {
        let scratch = Scratch::new("config-control-plane");
        let tree = staged("node-1", &repo("rootfs/config"), &scratch).unwrap();
        let pki = names(&tree, "pki");
        assert!(pki.contains(&"etcd.key".into()) && pki.contains(&"sa.key".into()), "{pki:?}");
        assert!(!pki.iter().any(|name| name.ends_with("ca.key")), "{pki:?}");
        for name in pki {
            let mode = fs::metadata(tree.host(&format!("/pki/{name}"))).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if name.ends_with(".key") { SECRET } else { PUBLIC }, "{name}");
        }
        assert_eq!(fs::read_to_string(tree.host("/node")).unwrap(), "node-1\n");
        assert_eq!(fs::read_to_string(tree.host("/mission.toml")).unwrap(), MISSION);
    }

    #[test]
    fn a_mistake_in_a_template_names_file_and_line() {
        let scratch = Scratch::new("config-mistake");
        let templates = scratch.path().join("templates");
        fs::create_dir(&templates).unwrap();
        for (text, expected) in [
            ("a\n${NOPE}\n", "kubelet.yaml:2: unknown variable `${NOPE}`"),
            ("x509: { clientCAFile: /config/pki/kubernetes.crt }", "nothing will be at /config/pki/kubernetes.crt"),
        ] {
            fs::write(templates.join("kubelet.yaml"), text).unwrap();
            let error = format!("{:#}", staged("node-1", &templates, &scratch).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}

//! `rootfs/manifests/*.yaml` becomes what the agent applies: a list of server-side-apply paths and bodies.
//!
//! `${NAME}` stays: the root is the same for all nodes, and the agent expands it on its own. That each is known,
//! that each object's kind is, and that each image is in the slot, is checked here.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use perigee_core::mission::{VARIABLES, Variables, expand};
use serde::Deserialize;
use serde_json::{Value, json};

/// Kinds that the manifests may use: name, plural in the API's paths, and whether it lives in a namespace.
const KINDS: [(&str, &str, bool); 17] = [
    ("APIService", "apiservices", false),
    ("ClusterRole", "clusterroles", false),
    ("ClusterRoleBinding", "clusterrolebindings", false),
    ("ConfigMap", "configmaps", true),
    ("CronJob", "cronjobs", true),
    ("CustomResourceDefinition", "customresourcedefinitions", false),
    ("DaemonSet", "daemonsets", true),
    ("Deployment", "deployments", true),
    ("Job", "jobs", true),
    ("Namespace", "namespaces", false),
    ("NetworkPolicy", "networkpolicies", true),
    ("PriorityClass", "priorityclasses", false),
    ("Role", "roles", true),
    ("RoleBinding", "rolebindings", true),
    ("Service", "services", true),
    ("ServiceAccount", "serviceaccounts", true),
    ("StatefulSet", "statefulsets", true),
];

/// The objects of all `*.yaml` files in `folder`, files and documents in order, as `manifests.json` holds them:
/// `[{"path": "/api/v1/…", "body": {…}}]`. Containers may use `images` only.
pub fn collect(folder: &Path, images: &[&str]) -> Result<Value> {
    let mut objects = Vec::new();
    for path in crate::tree::files(folder)? {
        let text = fs::read_to_string(folder.join(&path)).with_context(|| format!("read {}", path.display()))?;
        objects.extend(parse(&text, images).with_context(|| format!("{}", folder.join(&path).display()))?);
    }
    Ok(Value::Array(objects))
}

fn parse(text: &str, images: &[&str]) -> Result<Vec<Value>> {
    check_variables(text)?;
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let body = Value::deserialize(document)?;
        if body.is_null() {
            continue;
        }
        let path = api_path(&body)?;
        check_images(&body, images).with_context(|| path.clone())?;
        objects.push(json!({"path": path, "body": body}));
    }
    Ok(objects)
}

/// Fails with the line of the first variable that no mission has.
fn check_variables(text: &str) -> Result<()> {
    let variables: Variables = VARIABLES.iter().map(|name| (*name, String::new())).collect();
    for (number, line) in (1..).zip(text.lines()) {
        expand(line, &variables).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

/// The URL path of an object, to which its server-side apply is sent.
fn api_path(body: &Value) -> Result<String> {
    let text = |value: &Value, name: &str| -> Result<String> {
        let found =
            value[name].as_str().with_context(|| format!("an object without `{name}`, which each must have"))?;
        Ok(found.to_owned())
    };
    let (kind, version) = (text(body, "kind")?, text(body, "apiVersion")?);
    let name = text(&body["metadata"], "name").with_context(|| format!("{kind}'s metadata"))?;
    let Some((_, plural, namespaced)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
        let known: Vec<_> = KINDS.iter().map(|(kind, ..)| *kind).collect();
        bail!(
            "{kind}/{name}: unknown kind; expected one of {} (a new one: image/src/manifests.rs, KINDS)",
            known.join(", ")
        );
    };
    let namespace = match (body["metadata"]["namespace"].as_str(), namespaced) {
        (Some(namespace), true) => format!("/namespaces/{namespace}"),
        (None, false) => String::new(),
        (None, true) => bail!("{kind}/{name}: no namespace; write `namespace: default` where that is meant"),
        (Some(_), false) => bail!("{kind}/{name}: a {kind} lives in no namespace; remove `namespace`"),
    };
    // The core group has no name and a path of its own.
    let root = if version.contains('/') { "apis" } else { "api" };
    Ok(format!("/{root}/{version}{namespace}/{plural}/{name}"))
}

/// Fails when a container wants an image that is not in the slot: in the dark there is nothing to pull from.
fn check_images(value: &Value, images: &[&str]) -> Result<()> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_images(item, images)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| match field.as_str() {
            Some(image) if name == "image" => {
                ensure!(
                    images.contains(&image),
                    "image {image} is not in the slot; expected one of {}",
                    images.join(", ")
                );
                Ok(())
            }
            _ => check_images(field, images),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        parse(text, &["demo:1"]).unwrap().iter().map(|object| object["path"].as_str().unwrap().to_owned()).collect()
    }

    fn error(text: &str) -> String {
        format!("{:#}", parse(text, &["demo:1"]).unwrap_err())
    }

    #[test]
    fn each_document_goes_to_its_own_path() {
        let text = "
apiVersion: v1
kind: Service
metadata: { name: demo, namespace: default }
spec: { clusterIP: \"${SERVICE_DNS_ADDRESS}\" }
---
# nothing
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: \"system:coredns\" }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: demo, namespace: apps }
spec: { template: { spec: { containers: [{ image: \"demo:1\" }] } } }
";
        assert_eq!(
            paths(text),
            [
                "/api/v1/namespaces/default/services/demo",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:coredns",
                "/apis/apps/v1/namespaces/apps/deployments/demo",
            ]
        );
    }

    #[test]
    fn variables_are_left_for_the_agent() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: { name: \"${CLUSTER_NAME}\" }";
        assert_eq!(paths(text), ["/api/v1/namespaces/${CLUSTER_NAME}"]);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("kind: Pot\napiVersion: v1\nmetadata: { name: a }", "Pot/a: unknown kind; expected one of APIService"),
            ("kind: Service\napiVersion: v1\nmetadata: { name: a }", "Service/a: no namespace"),
            ("kind: Namespace\napiVersion: v1\nmetadata: { name: a, namespace: b }", "lives in no namespace"),
            ("kind: Namespace\nmetadata: { name: a }", "without `apiVersion`"),
            ("kind: Namespace\napiVersion: v1", "without `name`"),
            ("a: 1\nb: ${NOPE}", "line 2: unknown variable `${NOPE}`"),
            ("a: [1\nb: 2", "line 2"),
            (
                "kind: Job\napiVersion: batch/v1\nmetadata: { name: a, namespace: b }\nspec: { image: \"nginx:1\" }",
                "image nginx:1 is not in the slot; expected one of demo:1",
            ),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_manifests_of_this_repository_are_well_formed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs/manifests");
        let objects = collect(&folder, &crate::oci::IMAGES).unwrap();
        assert!(objects.as_array().is_some_and(|objects| !objects.is_empty()));
    }
}

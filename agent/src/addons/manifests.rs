//! `manifests.json`: `[{"path": "/api/v1/…", "body": {…}}]` with `${NAME}` in both.

use perigee_core::mission::{UnknownVariable, Variables, expand};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One object as it stands in the file: its body stays text, which is the smallest form of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest<'a> {
    /// Where it is applied.
    pub path: &'a str,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl<'a> Manifest<'a> {
    /// All of a file.
    ///
    /// # Errors
    /// Not such a list.
    pub fn list(text: &'a str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str(text)
    }

    /// Path and body for one node. A value stands inside a JSON string, so what would end it is escaped.
    ///
    /// # Errors
    /// A variable that no mission has.
    pub fn expand(&self, variables: &Variables) -> Result<(String, String), UnknownVariable> {
        let escaped = variables.iter().map(|(name, value)| (*name, escape(value))).collect();
        Ok((expand(self.path, variables)?, expand(self.body.get(), &escaped)?))
    }
}

fn escape(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_in_path_and_body() {
        let text = r#"[{"path": "/api/v1/nodes/${NODE_NAME}", "body": {"a": "x ${CLUSTER_NAME} $${KEPT} $5"}}]"#;
        let variables = [("NODE_NAME", "node-1".into()), ("CLUSTER_NAME", "a\"b\\c".into())].into();
        let manifests = Manifest::list(text).unwrap();
        let (path, body) = manifests[0].expand(&variables).unwrap();
        assert_eq!(path, "/api/v1/nodes/node-1");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["a"], "x a\"b\\c ${KEPT} $5");
    }

    #[test]
    fn an_unknown_variable_and_another_form_are_named() {
        let manifests = Manifest::list(r#"[{"path": "/x", "body": "${NOPE}"}]"#).unwrap();
        assert!(manifests[0].expand(&Variables::new()).unwrap_err().to_string().contains("NOPE"));
        for text in ["", "{}", r#"[{"path": "/x"}]"#, r#"[{"path": "/x", "body": 1, "more": 2}]"#, "[1"] {
            assert!(Manifest::list(text).is_err(), "{text}");
        }
    }
}

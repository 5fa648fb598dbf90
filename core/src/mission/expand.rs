//! `${NAME}` in service files and configuration templates.

use alloc::string::String;

use super::{VARIABLES, Variables};
use crate::document::shown;

/// A `${NAME}` that no mission gives a value to, or a `${` that no `}` ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown variable `{written}`; expected one of {known}; write `$${{` for a plain `${{`",
    known = VARIABLES.join(", ")
)]
pub struct UnknownVariable {
    /// What stands in the text: `${NAME}`, or `${` and what follows where no `}` does.
    pub written: String,
}

/// `text` with each `${NAME}` replaced by its value. `$${` is a plain `${`; any other `$` is itself.
///
/// # Errors
/// The first variable that is not in `variables`. Values are not expanded again.
pub fn expand(text: &str, variables: &Variables) -> Result<String, UnknownVariable> {
    replace(text, |name| variables.get(name).map(String::as_str))
}

/// Whether every variable in `text` is one that missions have.
pub(crate) fn check(text: &str) -> Result<(), UnknownVariable> {
    replace(text, |name| VARIABLES.contains(&name).then_some("")).map(drop)
}

fn replace<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, UnknownVariable> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = after;
            continue;
        }
        let unknown = |length| UnknownVariable { written: shown(&rest[start..start + length]) };
        let (name, after) = after.split_once('}').ok_or_else(|| unknown(rest.len() - start))?;
        result.push_str(before);
        result.push_str(value(name).ok_or_else(|| unknown("${}".len() + name.len()))?);
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;
    use alloc::string::ToString;

    use super::*;

    fn variables() -> Variables {
        [("NODE_NAME", "node-1".to_owned()), ("CLUSTER_NAME", "${NODE_NAME}".to_owned())].into()
    }

    #[test]
    fn variables_are_replaced_once_and_other_dollars_are_kept() {
        for (text, expected) in [
            ("", ""),
            ("--name=${NODE_NAME},${NODE_NAME}", "--name=node-1,node-1"),
            ("${CLUSTER_NAME}", "${NODE_NAME}"),
            ("$${NODE_NAME}", "${NODE_NAME}"),
            ("$$${NODE_NAME}", "$${NODE_NAME}"),
            ("$(POD_IP) $5 $$ $", "$(POD_IP) $5 $$ $"),
            ("ünï${NODE_NAME}cödé", "ünïnode-1cödé"),
        ] {
            assert_eq!(expand(text, &variables()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn unknown_and_unended_variables_are_named() {
        for (text, written) in [
            ("a ${NODE} b", "${NODE}"),
            ("a ${} b", "${}"),
            ("a ${NODE_NAME", "${NODE_NAME"),
            ("a ${NODE_NAME\nb", "${NODE_NAME\\nb"),
            ("${${NODE_NAME}}", "${${NODE_NAME}"),
        ] {
            assert_eq!(expand(text, &variables()), Err(UnknownVariable { written: written.to_owned() }), "{text}");
        }
    }

    #[test]
    fn the_error_lists_what_could_have_been_written() {
        let message = check("${NODE}").map_err(|error| error.to_string());
        let message = message.expect_err("NODE is no variable");
        assert!(message.starts_with("unknown variable `${NODE}`; expected one of API_SERVER, "), "{message}");
        assert!(message.ends_with("; write `$${` for a plain `${`"), "{message}");
    }
}

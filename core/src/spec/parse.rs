//! From the text of a service file to a checked [`Spec`]: its outermost table and what holds between tables.
//!
//! What holds between files (names in `after`, cycles) is `core::service::Graph`'s to check.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::sections::{self, HEALTH, LIMITS, LOG, READY, RESTART, SECURITY, STOP};
use super::{Error, Hold, Kind, Spec};
use crate::document::{Document, Key, Table, quoted};
use crate::mission::{self, ROLES};

const NAME: Key = Key::new("name", "a file name of a-z, 0-9 and -, 1 to 32 long", "etcd.toml");
const DESCRIPTION: Key =
    Key::new("description", "a line that says why the service exists", "description = \"etcd: the cluster's memory\"");
const KIND: Key = Key::new("kind", "daemon or oneshot", "kind = \"daemon\"");
const SERVICE_ROLES: Key = Key::new("roles", "a list of control-plane, worker or both", "roles = [\"control-plane\"]");
const EXEC: Key = Key::new(
    "exec",
    "a list of a program's absolute path and its arguments",
    "exec = [\"/usr/bin/etcd\", \"--name=${NODE_NAME}\"]",
);
const ENV: Key = Key::new(
    "env",
    "a table of strings, names of A-Z, a-z, 0-9 and _, without PID 1's own NOTIFY_SOCKET and WATCHDOG_USEC",
    "env = { GOGC = \"50\" }",
);
const DIRECTORIES: Key = Key::new(
    "directories",
    "a list of absolute paths below /data, /dev/shm, /run, /tmp or /var (all else is read-only)",
    "directories = [\"/var/lib/etcd\"]",
);
const AFTER: Key = Key::new("after", "a list of services' names", "after = [\"containerd\"]");
const HOLD: Key =
    Key::new("hold", "a table of `until` and `at_most_s`", "hold = { until = \"kube-apiserver\", at_most_s = 180 }");
const UNTIL: Key = Key::new("until", "a service's name", "until = \"kube-apiserver\"");
/// Ten minutes is the longest start of all (an API server's first one under emulation).
const AT_MOST_S: Key = Key::whole("at_most_s", "seconds", 1..=600, "at_most_s = 180");

const KEYS: [&Key; 15] = [
    &DESCRIPTION,
    &KIND,
    &SERVICE_ROLES,
    &EXEC,
    &ENV,
    &DIRECTORIES,
    &AFTER,
    &HOLD,
    &READY,
    &HEALTH,
    &RESTART,
    &STOP,
    &LIMITS,
    &SECURITY,
    &LOG,
];

/// Names are cgroups, log files and words that people type.
const MAX_NAME_BYTES: usize = 32;
/// One line of a terminal.
const MAX_DESCRIPTION_BYTES: usize = 120;
/// Environment variables that PID 1 sets itself.
const OWN_ENV: [&str; 2] = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];
/// File systems that can be written to on a running node.
const WRITABLE: [&str; 5] = ["/data/", "/dev/shm/", "/run/", "/tmp/", "/var/"];

/// The service `name` that `text` describes; errors name the file `file`.
///
/// # Errors
/// The first mistake, with its line, what was expected, and an example.
pub fn parse(name: &str, file: &str, text: &str) -> Result<Spec, Error> {
    let document = Document::new(file, text);
    let root = document.root()?;
    let root = Table::root(&document, &root, &KEYS)?;
    let name = root.required(&NAME, service_name(name)).map_err(|error| Error { found: quoted(name), ..error })?;

    let description = root.required(&DESCRIPTION, root.text(&DESCRIPTION, description)?)?;
    let kind = root.text(&KIND, kind)?.unwrap_or(Kind::Daemon);
    let roles = root.texts(&SERVICE_ROLES, role)?.unwrap_or_default();
    if root.has(&SERVICE_ROLES) && roles.is_empty() {
        return Err(root.mistake(&SERVICE_ROLES, "at least one role, or no such key for every node", "an empty list"));
    }
    let exec = exec(&root)?;
    let env = env(&root)?;
    let directories = root.texts(&DIRECTORIES, directory)?.unwrap_or_default();
    let after = after(&root, &name)?;
    let hold = hold(&root, &name)?;
    let (ready, ready_timeout) = sections::ready(&root, kind)?;
    Ok(Spec {
        description,
        kind,
        roles,
        exec,
        env,
        directories,
        after,
        hold,
        ready,
        ready_timeout,
        health: sections::health(&root, kind)?,
        restart: sections::restart(&root)?,
        stop: sections::stop(&root)?,
        limits: sections::limits(&root)?,
        security: sections::security(&root)?,
        log: sections::log(&root)?,
        name,
    })
}

fn exec(root: &Table<'_>) -> Result<Vec<String>, Error> {
    let exec = root.required(&EXEC, root.texts(&EXEC, argument)?)?;
    let program = exec.first().ok_or_else(|| root.mistake(&EXEC, "at least the program's path", "an empty list"))?;
    if absolute_path(program).is_none() {
        return Err(root.mistake(&EXEC, "the program's absolute path first", quoted(program)));
    }
    known_variables(root, &EXEC)?;
    Ok(exec)
}

fn env(root: &Table<'_>) -> Result<BTreeMap<String, String>, Error> {
    let env = root.map(&ENV, |name, value| Some((env_name(name)?, argument(value)?)))?.unwrap_or_default();
    known_variables(root, &ENV)?;
    Ok(env.into_iter().collect())
}

fn known_variables(root: &Table<'_>, key: &Key) -> Result<(), Error> {
    root.check_texts(key, mission::check).map_err(|(line, unknown)| {
        let expected = format!("variables of the mission ({}); `$${{` is a plain `${{`", mission::VARIABLES.join(", "));
        Error { line, ..root.mistake(key, expected, unknown.written) }
    })
}

fn after(root: &Table<'_>, name: &str) -> Result<Vec<String>, Error> {
    let after = root.texts(&AFTER, service_name)?.unwrap_or_default();
    for (place, other) in after.iter().enumerate() {
        if other == name {
            return Err(root.mistake(&AFTER, "services other than itself", quoted(other)));
        }
        if after.iter().take(place).any(|before| before == other) {
            return Err(root.mistake(&AFTER, "each service once", format!("{} again", quoted(other))));
        }
    }
    Ok(after)
}

fn hold(root: &Table<'_>, name: &str) -> Result<Option<Hold>, Error> {
    let Some(table) = root.table(&HOLD, &[&UNTIL, &AT_MOST_S])? else { return Ok(None) };
    let until = table.required(&UNTIL, table.text(&UNTIL, service_name)?)?;
    if until == name {
        return Err(table.mistake(&UNTIL, "a service other than itself", quoted(&until)));
    }
    let at_most = Duration::from_secs(table.required(&AT_MOST_S, table.whole(&AT_MOST_S)?)?);
    Ok(Some(Hold { until, at_most }))
}

fn service_name(text: &str) -> Option<String> {
    let good = (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-');
    good.then(|| text.to_owned())
}

fn description(text: &str) -> Option<String> {
    let good = (1..=MAX_DESCRIPTION_BYTES).contains(&text.len()) && !text.contains(char::is_control);
    good.then(|| text.to_owned())
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "daemon" => Some(Kind::Daemon),
        "oneshot" => Some(Kind::Oneshot),
        _ => None,
    }
}

fn role(text: &str) -> Option<String> {
    ROLES.contains(&text).then(|| text.to_owned())
}

/// What execve(2) can take: no NUL.
fn argument(text: &str) -> Option<String> {
    (!text.contains('\0')).then(|| text.to_owned())
}

fn env_name(text: &str) -> Option<String> {
    let good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && !OWN_ENV.contains(&text);
    good.then(|| text.to_owned())
}

fn directory(text: &str) -> Option<String> {
    absolute_path(text).filter(|path| WRITABLE.iter().any(|place| path.starts_with(place)))
}

/// A path that means itself: absolute, without `.`, `..` or empty parts, and without variables, which are not expanded
/// in paths.
pub(super) fn absolute_path(text: &str) -> Option<String> {
    let parts = text.strip_prefix('/')?;
    let good = parts.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !text.contains(|c: char| c.is_control() || c == '$');
    good.then(|| text.to_owned())
}

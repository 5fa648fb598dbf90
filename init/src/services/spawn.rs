//! Starting one process as its service file says. Everything that can be prepared is prepared before the fork; what
//! touches files happens in the child, so that a slow card never holds PID 1 up.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::fmt::Display;
use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use perigee_core::mission::{UnknownVariable, Variables, expand};
use perigee_core::spec::{CAPABILITIES, Health, Ready, Security, Spec};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, setrlimit, setsid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_gid,
    set_thread_groups, set_thread_uid,
};

use crate::cgroup::Group;
use crate::child::NOT_EXECUTED;
use crate::{notify, sys};

/// What programs find other programs by, unless the service's file says otherwise: kubelet looks for nothing else
/// than nft, containerd for its shim and for runc.
const PATH: &str = "/usr/bin:/usr/sbin:/opt/cni/bin";

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mission lacks a variable.
    #[error("{0}")]
    Variable(#[from] UnknownVariable),
    /// A text has a NUL in it.
    #[error("{0}")]
    Nul(#[from] NulError),
    /// No pipe.
    #[error("no pipe for its output: {0}")]
    Pipe(#[from] rustix::io::Errno),
    /// No process.
    #[error("no process: {0}")]
    Fork(#[from] std::io::Error),
}

/// Starts `spec` in `group`. Returns its main process and the end of its output, non-blocking. Whatever fails after
/// the fork is said in that output, and ends the process with [`NOT_EXECUTED`].
///
/// # Errors
/// What fails before the fork.
pub fn spawn(spec: &Spec, variables: &Variables, group: &Group) -> Result<(Pid, OwnedFd), Error> {
    let args = spec.exec.iter().map(|text| Ok(CString::new(expand(text, variables)?)?));
    let args = args.collect::<Result<Vec<_>, Error>>()?;
    let env = environment(spec, variables)?;
    let folders = spec.directories.iter().map(|text| expand(text, variables)).collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    let pid = sys::process::fork(Some(rustix::fd::AsFd::as_fd(group)), || {
        let Err(error) = become_service(spec, &folders, &writer, &args, &env);
        let _ = rustix::io::write(&writer, format!("perigee-init: {error}\n").as_bytes());
        NOT_EXECUTED
    })?;
    Ok((pid, reader))
}

/// Exactly what the file says, a PATH, and where to report to.
fn environment(spec: &Spec, variables: &Variables) -> Result<Vec<CString>, Error> {
    let mut env = Vec::with_capacity(spec.env.len() + 3);
    for (name, value) in &spec.env {
        env.push(CString::new(format!("{name}={}", expand(value, variables)?))?);
    }
    if !spec.env.contains_key("PATH") {
        env.push(CString::new(format!("PATH={PATH}"))?);
    }
    let watchdog = match spec.health {
        Some(Health::Watchdog(period)) => Some(period),
        _ => None,
    };
    if spec.ready == Ready::Notify || watchdog.is_some() {
        env.push(CString::new(format!("NOTIFY_SOCKET={}", notify::SOCKET))?);
    }
    if let Some(period) = watchdog {
        env.push(CString::new(format!("WATCHDOG_USEC={}", period.as_micros()))?);
    }
    Ok(env)
}

/// The child's way from PID 1's copy to the service's program.
fn become_service(
    spec: &Spec,
    folders: &[String],
    output: &OwnedFd,
    args: &[CString],
    env: &[CString],
) -> Result<Infallible, String> {
    let during = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    let user = spec.security.user;
    sys::signals::reset();
    setsid().map_err(during("new session"))?;
    let null = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    rustix::stdio::dup2_stdin(&null).map_err(during("standard input"))?;
    rustix::stdio::dup2_stdout(output).map_err(during("standard output"))?;
    rustix::stdio::dup2_stderr(output).map_err(during("standard error"))?;
    for folder in folders {
        make_folder(Path::new(folder), user).map_err(|error| format!("folder {folder}: {error}"))?;
    }
    let score = spec.limits.oom_score_adj;
    fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(|error| format!("oom_score_adj: {error}"))?;
    if let Some(most) = spec.limits.nofile {
        let most = Some(u64::from(most));
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).map_err(during("open files' limit"))?;
    }
    restrict(&spec.security).map_err(during("user and capabilities"))?;
    let program = args.first().ok_or("nothing to execute")?;
    let error: &dyn Display = &sys::process::exec(program, args, env);
    Err(format!("execute {}: {error}", program.to_string_lossy()))
}

/// A folder that only its service can look into; those above it are anyone's to pass.
fn make_folder(folder: &Path, user: u32) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(folder)?;
    if user == 0 { Ok(()) } else { chown(folder, Some(user), Some(user)) }
}

/// The capabilities that are kept; none: all that the user has by itself.
fn kept(security: &Security) -> Option<CapabilitySet> {
    let set = |names: &[String]| {
        let bit = |name: &String| CAPABILITIES.iter().position(|known| known == name).map_or(0, |place| 1 << place);
        CapabilitySet::from_bits_retain(names.iter().map(bit).fold(0, |bits: u64, bit: u64| bits | bit))
    };
    match (&security.capabilities, security.user) {
        (Some(names), _) => Some(set(names)),
        (None, 0) => None,
        (None, _) => Some(CapabilitySet::empty()),
    }
}

/// Gives up what the service may not do (capabilities(7)). Its programs cannot get it back: it leaves the bounding
/// set, too.
fn restrict(security: &Security) -> Result<(), rustix::io::Errno> {
    if let Some(kept) = kept(security) {
        for number in 0..CAPABILITIES.len() {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if !kept.contains(one) {
                match remove_capability_from_bounding_set(one) {
                    // A kernel that does not have it does not grant it.
                    Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if security.user != 0 {
            set_keep_capabilities(true)?;
            set_thread_groups(&[])?;
            set_thread_gid(Gid::from_raw(security.user))?;
            set_thread_uid(Uid::from_raw(security.user))?;
        }
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
        if security.user != 0 {
            // Only ambient ones outlive an execve of another user than root.
            clear_ambient_capability_set()?;
            for one in kept.iter() {
                configure_capability_in_ambient_set(one, true)?;
            }
        }
    }
    if security.no_new_privs {
        set_no_new_privs(true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use perigee_core::spec;

    use super::*;

    fn spec(text: &str) -> Spec {
        spec::parse("test", "test.toml", &format!("description = \"x\"\nexec = [\"/bin/x\"]\n{text}")).unwrap()
    }

    fn env(spec: &Spec) -> Vec<String> {
        let variables = [("NODE_NAME", "node-1".to_owned())].into();
        environment(spec, &variables).unwrap().into_iter().map(|text| text.into_string().unwrap()).collect()
    }

    #[test]
    fn the_environment_is_the_files_and_nothing_of_ours() {
        assert_eq!(env(&spec("env = { A = \"${NODE_NAME}\" }")), ["A=node-1", &format!("PATH={PATH}")]);
        assert_eq!(env(&spec("env = { PATH = \"/opt\" }")), ["PATH=/opt"]);
    }

    #[test]
    fn who_reports_is_told_where_to() {
        let env = env(&spec("[ready]\nnotify = true\n[health]\nwatchdog_s = 30"));
        assert_eq!(env[1..], ["NOTIFY_SOCKET=/run/perigee/notify", "WATCHDOG_USEC=30000000"]);
    }

    #[test]
    fn root_keeps_all_unless_said_and_others_nothing() {
        assert_eq!(kept(&spec("").security), None);
        assert_eq!(kept(&spec("[security]\ncapabilities = []").security), Some(CapabilitySet::empty()));
        assert_eq!(kept(&spec("[security]\nuser = 7").security), Some(CapabilitySet::empty()));
        let admin = kept(&spec("[security]\ncapabilities = [\"CAP_NET_ADMIN\", \"CAP_CHOWN\"]").security);
        assert_eq!(admin, Some(CapabilitySet::NET_ADMIN | CapabilitySet::CHOWN));
    }
}

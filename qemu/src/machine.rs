//! A running machine: one QEMU process, its console and its control socket.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use crate::config::{Config, Flash};
use crate::console::Console;
use crate::qmp::Qmp;

/// How often a machine that is to end is looked at.
const END_PERIOD: Duration = Duration::from_millis(50);
/// How long a QEMU that closed its control socket may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A running machine. Dropping it is pulling the plug.
///
/// The kernel ends QEMU together with the *thread* that started it (PR_SET_PDEATHSIG): start machines from a thread
/// that lives as long as they do.
#[derive(Debug)]
pub struct Machine {
    name: String,
    process: Process,
    qmp: Qmp,
    console: Console,
    started: Instant,
    /// Removed when the machine has ended.
    _files: Files,
}

impl Machine {
    /// Starts a machine; times on its console count from the moment its processors run.
    pub fn start(config: &Config) -> Result<Self> {
        let started = || -> Result<Self> {
            let files = Files::new()?;
            let vars = files.path("vars.fd");
            if let Flash::CodeAndVariables(_, template) = config.firmware.flash(config.board) {
                fs::copy(template, &vars)
                    .with_context(|| format!("copy {template}; `make` installs the firmware packages"))?;
            }
            let socket = files.path("qmp");
            let mut process = Process::start(config.board.program(), &config.arguments(&vars, &socket))?;
            let mut qmp = process.connect(&socket)?;
            if !config.link {
                qmp.execute("set_link", json!({"name": "eth0", "up": false}))?;
            }
            let output = process.child.stdout.take().ok_or_else(|| anyhow!("QEMU has no console"))?;
            let started = Instant::now();
            let console = Console::follow(&config.name, started, output, &config.console_log)?;
            qmp.execute("cont", json!({}))?;
            Ok(Self { name: config.name.clone(), process, qmp, console, started, _files: files })
        };
        started().with_context(|| format!("start machine {}", config.name))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// When its processors began to run.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Plugs the network card's cable in or out.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({"name": "eth0", "up": up})).map(drop)
    }

    /// Lets the disk write at most so many bytes a second; 0: as many as it can.
    pub fn limit_writes(&mut self, bytes_per_s: u64) -> Result<()> {
        let none = ["bps", "bps_rd", "iops", "iops_rd", "iops_wr"].map(|limit| (limit.to_owned(), json!(0)));
        let mut limits = serde_json::Map::from_iter(none);
        limits.extend([("device".to_owned(), json!("disk")), ("bps_wr".to_owned(), json!(bytes_per_s))]);
        self.qmp.execute("block_set_io_throttle", limits.into()).map(drop)
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(drop)
    }

    /// QEMU's word for how the machine is: `running`, `paused`, `guest-panicked`.
    pub fn status(&mut self) -> Result<String> {
        let status = self.qmp.execute("query-status", json!({}))?;
        status["status"].as_str().map(str::to_owned).ok_or_else(|| anyhow!("QMP query-status: {status}"))
    }

    /// Whether the machine has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.child.try_wait()?)
    }

    /// Waits until the machine has powered itself off.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended()? {
                self.console.finish();
                return Ok(status);
            }
            if Instant::now() > until {
                let tail = self.console.tail();
                bail!("{}: not powered off within {timeout:?}; the console's end:\n{tail}", self.name);
            }
            std::thread::sleep(END_PERIOD);
        }
    }
}

/// A QEMU process; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    program: String,
    child: Child,
    /// What it has said on standard error, once it has ended.
    said: String,
}

impl Process {
    /// Starts `program` with `arguments`, its standard output piped.
    ///
    /// It is in a process group of its own, so that Ctrl-C at the terminal reaches us and not the machine.
    pub(crate) fn start(program: &str, arguments: &[String]) -> Result<Self> {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {program} by setpriv (of util-linux)"))?;
        Ok(Self { program: program.to_owned(), child, said: String::new() })
    }

    /// Connects to its control socket; if it has ended instead, the error is what it said.
    pub(crate) fn connect(&mut self, socket: &Path) -> Result<Qmp> {
        let error = match Qmp::connect(socket, || self.alive()) {
            Ok(qmp) => return Ok(qmp),
            Err(error) => error,
        };
        // It listens before it looks at its other arguments: a refused one shows as a closed connection first.
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until {
            self.alive()?;
            std::thread::sleep(END_PERIOD);
        }
        Err(error)
    }

    /// An error with what QEMU said, if it has ended; the same however often it is asked.
    fn alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut self.said)?;
        }
        bail!("{} ended with {status}: {}", self.program, self.said.trim());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about a process that cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for sockets and variables, with a name short enough for a socket's (108 bytes, unix(7)).
#[derive(Debug)]
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("perigee-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Left-overs in the temporary folder harm nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ended_before_it_listened_says_why() {
        let files = Files::new().unwrap();
        let mut process = Process::start("sh", &["-c".to_owned(), "echo no such disk >&2; exit 1".to_owned()]).unwrap();
        let error = process.connect(&files.path("qmp")).unwrap_err().to_string();
        assert!(error.contains("exit status: 1") && error.contains("no such disk"), "{error}");
    }
}

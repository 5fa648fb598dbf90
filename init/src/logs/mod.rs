//! What PID 1 and the services say: rings in memory, files on data, PID 1's own events on the console.

pub mod ring;
mod writer;

use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use perigee_core::control::INIT;
use perigee_core::service::Id;
use perigee_core::spec::Log;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::sys;
use ring::Ring;

/// Read from a service's output at once: a pipe's page, so that a chatty one cannot keep PID 1 from the others.
pub const CHUNK: usize = 4096;
/// PID 1's own log: about a thousand events, which is days of a healthy node and an hour of a sick one.
const INIT_LOG: Log = Log { ring_kib: 64, file_kib: 256, files: 4 };
/// Longest event: what a console at 9,600 baud prints in half a second.
const LONGEST_EVENT: usize = 512;

/// All that is said on this node.
pub struct Logs {
    console: Option<OwnedFd>,
    own: Ring,
    services: BTreeMap<Id, Output>,
    writer: Option<Writer>,
    /// Events that the console had no room for, and pieces of output that the writer had no room for.
    dropped: u64,
}

struct Output {
    name: String,
    log: Log,
    ring: Ring,
}

struct Writer {
    ours: OwnedFd,
    theirs: OwnedFd,
    pid: Option<Pid>,
}

impl Logs {
    /// PID 1's own log, in memory.
    pub fn new() -> Self {
        Self {
            console: None,
            own: Ring::new(INIT_LOG.ring_kib as usize * 1024),
            services: BTreeMap::new(),
            writer: None,
            dropped: 0,
        }
    }

    /// From now on events are shown on the console, if there is one; those of before first.
    pub fn open_console(&mut self) {
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.console = rustix::fs::open("/dev/console", flags, Mode::empty()).ok();
        let early = self.own.text(usize::MAX);
        self.show(&early);
    }

    /// One event of PID 1: one line, `key=value`.
    pub fn event(&mut self, event: Arguments<'_>) {
        let now = sys::now();
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = write!(line, "[{:>5}.{:03}] {event}", now.as_secs(), now.subsec_millis());
        line = line.replace('\n', " ");
        line.truncate(line.floor_char_boundary(LONGEST_EVENT));
        line.push('\n');
        self.own.push(line.as_bytes());
        self.show(&line);
        self.file(INIT, INIT_LOG, line.as_bytes());
    }

    /// Makes place for a service's output.
    pub fn register(&mut self, id: Id, name: &str, log: Log) {
        let ring = Ring::new(log.ring_kib as usize * 1024);
        self.services.insert(id, Output { name: name.to_owned(), log, ring });
    }

    /// A piece of a service's output.
    pub fn output(&mut self, id: Id, bytes: &[u8]) {
        let Some(output) = self.services.get_mut(&id) else { return };
        output.ring.push(bytes);
        let (name, log) = (output.name.clone(), output.log);
        self.file(&name, log, bytes);
    }

    /// A service's last words.
    pub fn last_line(&self, id: Id) -> String {
        self.services.get(&id).map(|output| output.ring.last_line(160)).unwrap_or_default()
    }

    /// The newest `most` bytes of `name`'s output (`init` is PID 1); none if there is no such service.
    pub fn text(&self, name: &str, most: usize) -> Option<String> {
        if name == INIT {
            return Some(self.own.text(most));
        }
        self.services.values().find(|output| output.name == name).map(|output| output.ring.text(most))
    }

    /// How much was dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Starts (or, after its end, starts again) the child that writes to `folder`.
    ///
    /// # Errors
    /// No descriptors, memory or process for it.
    pub fn start_writer(&mut self, folder: &Path) -> std::io::Result<()> {
        let first = self.writer.is_none();
        let (ours, theirs) = match self.writer.take() {
            Some(writer) => (writer.ours, writer.theirs),
            None => rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?,
        };
        let pid = sys::process::helper(c"init-log", Some(theirs.as_fd()), || writer::run(&theirs, folder));
        self.writer = Some(Writer { ours, theirs, pid: pid.as_ref().ok().copied() });
        pid?;
        if first {
            // What was said before there was a data partition; in pieces that fit a datagram.
            let early = self.own.text(usize::MAX);
            for piece in early.as_bytes().chunks(CHUNK) {
                self.file(INIT, INIT_LOG, piece);
            }
        }
        Ok(())
    }

    /// Whether `pid` was the writer; then it is to be started again.
    pub fn writer_ended(&mut self, pid: Pid) -> bool {
        match &mut self.writer {
            Some(writer) if writer.pid == Some(pid) => {
                writer.pid = None;
                true
            }
            _ => false,
        }
    }

    /// Ends the writer, so that data can be unmounted.
    pub fn stop_writer(&mut self) {
        if let Some(Writer { pid: Some(pid), .. }) = self.writer.take() {
            // It can only have ended already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    fn show(&mut self, text: &str) {
        if let Some(console) = &self.console
            && rustix::io::write(console, text.as_bytes()) != Ok(text.len())
        {
            self.dropped += 1;
        }
    }

    fn file(&mut self, name: &str, log: Log, bytes: &[u8]) {
        if log.file_kib > 0
            && let Some(writer) = &self.writer
            && !writer::send(&writer.ours, name, log, bytes)
        {
            self.dropped += 1;
        }
    }
}

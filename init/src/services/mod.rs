//! The services: what `core::service` decides is done here, and what happens to processes is told to it.

mod load;
mod spawn;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use perigee_core::control::{Fault, ServiceState, ServiceStatus};
use perigee_core::mission::Variables;
use perigee_core::service::{Action, Event, Exit, Graph, GraphError, Id, Note};
use perigee_core::spec::{Signal, Spec};
use rustix::io::Errno;
use rustix::process::{Pid, kill_process};

use crate::cgroup::{self, Group};
use crate::logs::{CHUNK, Logs};
use crate::poller::{Poller, Source};
use crate::probe::Probes;
use crate::sys;

/// Output that is taken at once from a process that has ended: a pipe's size, so that its last words are there.
const REMAINS: usize = 65536 / CHUNK;
/// The file that freezes a cgroup.
const FREEZE: &str = "cgroup.freeze";

/// All services of this node.
pub struct Services {
    graph: Graph,
    running: BTreeMap<Id, Running>,
    variables: Variables,
    watch: Option<cgroup::Watch>,
    probes: Probes,
    is_down: bool,
    all_ready: bool,
}

/// What there is of a service outside of the graph.
#[derive(Default)]
struct Running {
    /// Made at its first start.
    group: Option<Group>,
    pid: Option<Pid>,
    output: Option<OwnedFd>,
    /// Killed; the graph waits for Empty.
    killed: bool,
    exec_at: Duration,
    first_exec: Option<Duration>,
    first_ready: Option<Duration>,
}

impl Services {
    /// Reads the service files.
    ///
    /// # Errors
    /// See [`load::load`].
    pub fn new(variables: Variables, roles: &[String], poller: &Poller, logs: &mut Logs) -> Result<Self, GraphError> {
        let graph = load::load(&variables, roles, logs)?;
        let watch = cgroup::Watch::new().ok().filter(|watch| poller.add(watch, Source::Cgroups).is_ok());
        let mut running = BTreeMap::new();
        for id in graph.ids() {
            let spec = graph.spec(id);
            logs.register(id, &spec.name, spec.log);
            running.insert(id, Running::default());
        }
        let probes = Probes::default();
        Ok(Self { graph, running, variables, watch, probes, is_down: false, all_ready: false })
    }

    /// The service of that name.
    pub fn find(&self, name: &str) -> Option<Id> {
        self.graph.find(name)
    }

    /// Where the service of that name is, if this node has it.
    pub fn state(&self, name: &str) -> Option<ServiceState> {
        self.graph.find(name).map(|id| self.graph.state(id))
    }

    /// A service, and all that come after it.
    pub fn group(&self, id: Id) -> Vec<Id> {
        self.graph.group(id)
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        [self.graph.deadline(), self.probes.deadline()].into_iter().flatten().min()
    }

    /// Whether everything has ended after a shutdown.
    pub fn is_down(&self) -> bool {
        self.is_down
    }

    /// Whether all services have been ready at the same time in this boot.
    pub fn all_ready(&self) -> bool {
        self.all_ready
    }

    /// Takes an event, and does what follows from it.
    pub fn handle(&mut self, now: Duration, event: Event, poller: &Poller, logs: &mut Logs) {
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            self.graph.step(now, event, &mut actions);
            for action in actions.drain(..) {
                events.extend(self.act(now, action, poller, logs));
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration, poller: &Poller, logs: &mut Logs) {
        while let Some(id) = self.probes.expire(now) {
            self.handle(now, Event::Probed(id, false), poller, logs);
        }
        if self.graph.deadline().is_some_and(|deadline| deadline <= now) {
            self.handle(now, Event::Tick, poller, logs);
        }
    }

    /// A probe's connection can be used.
    pub fn probe_ready(&mut self, now: Duration, id: Id, poller: &Poller, logs: &mut Logs) {
        if let Some(good) = self.probes.ready(id, poller) {
            self.handle(now, Event::Probed(id, good), poller, logs);
        }
    }

    /// There is output to read. False: there will be none any more.
    pub fn read_output(&mut self, id: Id, logs: &mut Logs) -> bool {
        let Some(running) = self.running.get_mut(&id) else { return false };
        let Some(output) = &running.output else { return false };
        let mut bytes = [0; CHUNK];
        match rustix::io::read(output, &mut bytes) {
            Ok(length) if length > 0 => logs.output(id, &bytes[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Ok(_) | Err(_) => running.output = None,
        }
        running.output.is_some()
    }

    /// A child of PID 1 has ended. False: it was no service's main process.
    pub fn ended(&mut self, now: Duration, pid: Pid, exit: Exit, poller: &Poller, logs: &mut Logs) -> bool {
        let Some((&id, running)) = self.running.iter_mut().find(|(_, running)| running.pid == Some(pid)) else {
            return false;
        };
        running.pid = None;
        let mut pieces = 0;
        while pieces < REMAINS && self.read_output(id, logs) {
            pieces += 1;
        }
        self.handle(now, Event::Exited(id, exit), poller, logs);
        true
    }

    /// Some cgroup may have become empty. Also called after each child's end, so that no lost report can be missed.
    pub fn look_for_empty(&mut self, now: Duration, poller: &Poller, logs: &mut Logs) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let empty: Vec<Id> =
            self.running.iter_mut().filter_map(|(id, running)| running.became_empty().then_some(*id)).collect();
        for id in empty {
            self.handle(now, Event::Empty(id), poller, logs);
        }
    }

    /// A drill: does to a service what space does to it, and tells the graph nothing.
    ///
    /// # Errors
    /// ESRCH when it does not run.
    pub fn fault(&self, id: Id, fault: Fault) -> Result<(), Errno> {
        let running = self.running.get(&id).ok_or(Errno::SRCH)?;
        let pid = running.pid.ok_or(Errno::SRCH)?;
        match fault {
            Fault::Kill => kill_process(pid, rustix::process::Signal::KILL),
            Fault::Stop => kill_process(pid, rustix::process::Signal::STOP),
            Fault::Freeze => running.group.as_ref().ok_or(Errno::SRCH)?.write(FREEZE, "1"),
        }
    }

    /// For the node's status.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let figure = |group: &Option<Group>, file| group.as_ref().map_or(0, |group| group.number(file));
        let one = |(id, running): (&Id, &Running)| ServiceStatus {
            name: self.graph.spec(*id).name.clone(),
            state: self.graph.state(*id),
            pid: running.pid.map(|pid| pid.as_raw_nonzero().get()),
            restarts: self.graph.restarts(*id),
            since_ms: milliseconds(self.graph.since(*id)),
            first_exec_ms: running.first_exec.map(milliseconds),
            first_ready_ms: running.first_ready.map(milliseconds),
            last_exit: self.graph.last_exit(*id).map(describe),
            memory_bytes: figure(&running.group, "memory.current"),
            memory_peak_bytes: figure(&running.group, "memory.peak"),
            cpu_usec: running.group.as_ref().map_or(0, Group::cpu_usec),
        };
        self.running.iter().map(one).collect()
    }

    /// Does one thing; returns what follows at once.
    fn act(&mut self, now: Duration, action: Action, poller: &Poller, logs: &mut Logs) -> Option<Event> {
        match action {
            Action::Spawn(id) => return Some(self.spawn(id, poller, logs)),
            Action::Signal(id, signal) => {
                if let Some(pid) = self.running.get(&id).and_then(|running| running.pid) {
                    // Not waited for yet, so the pid is still its own.
                    let _ = kill_process(pid, number(signal));
                }
            }
            Action::Kill(id) => {
                let running = self.running.get_mut(&id)?;
                let killed = running.group.as_ref().map(Group::kill);
                if let Some(Err(error)) = killed {
                    logs.event(format_args!("service={} kill=failed error=\"{error}\"", self.graph.spec(id).name));
                }
                running.killed = true;
                return running.became_empty().then_some(Event::Empty(id));
            }
            Action::Probe(id, probe, timeout) => {
                let answer = self.probes.ask(now, id, &probe, timeout, poller);
                return answer.map(|good| Event::Probed(id, good));
            }
            Action::Ready(id) => self.became_ready(now, id, logs),
            Action::Down => self.is_down = true,
            Action::Note(id, note) => {
                let words = logs.last_line(id);
                let name = &self.graph.spec(id).name;
                logs.event(format_args!("service={name} {} last_words=\"{words}\"", explain(&note)));
            }
        }
        None
    }

    fn spawn(&mut self, id: Id, poller: &Poller, logs: &mut Logs) -> Event {
        let spec = self.graph.spec(id);
        let Some(running) = self.running.get_mut(&id) else { return Event::SpawnFailed(id) };
        if running.group.is_none() {
            running.group = make_group(spec, self.watch.as_ref(), logs);
        }
        let Some(group) = &running.group else { return Event::SpawnFailed(id) };
        // A frozen group (a drill, an operator) stays frozen over the death of all that was in it.
        let _ = group.write(FREEZE, "0");
        if let Some(weight) = spec.limits.cpu_weight_starting {
            weigh(spec, group, weight, logs);
        }
        match spawn::spawn(spec, &self.variables, group) {
            Ok((pid, output)) => {
                logs.event(format_args!("service={} state=starting pid={}", spec.name, pid.as_raw_nonzero()));
                // An output that cannot be watched is read when the process ends.
                let _ = poller.add(&output, Source::Output(id));
                (running.pid, running.output, running.exec_at) = (Some(pid), Some(output), sys::now());
                running.first_exec.get_or_insert(running.exec_at);
                Event::Spawned(id)
            }
            Err(error) => {
                logs.event(format_args!("service={} start=failed error=\"{error}\"", spec.name));
                Event::SpawnFailed(id)
            }
        }
    }

    fn became_ready(&mut self, now: Duration, id: Id, logs: &mut Logs) {
        let spec = self.graph.spec(id);
        let Some(running) = self.running.get_mut(&id) else { return };
        let after = now.saturating_sub(running.exec_at).as_millis();
        logs.event(format_args!("service={} state=ready after_ms={after}", spec.name));
        running.first_ready.get_or_insert(now);
        // The head start is over.
        if spec.limits.cpu_weight_starting.is_some()
            && let Some(group) = &running.group
        {
            weigh(spec, group, spec.limits.cpu_weight.unwrap_or(cgroup::USUAL_CPU_WEIGHT), logs);
        }
        let ready = self.graph.ids().filter(|id| self.graph.state(*id) == ServiceState::Ready).count();
        if !self.all_ready && ready == self.running.len() {
            self.all_ready = true;
            logs.event(format_args!("node=ready services={ready}"));
        }
    }
}

impl Running {
    /// Whether it was killed and nothing of it is left, which is said once.
    fn became_empty(&mut self) -> bool {
        let empty = self.killed && !self.group.as_ref().is_some_and(Group::populated);
        self.killed &= !empty;
        empty
    }
}

/// A service's cgroup with its limits, reported to `watch` when it becomes empty.
fn make_group(spec: &Spec, watch: Option<&cgroup::Watch>, logs: &mut Logs) -> Option<Group> {
    let path = cgroup::path_of(&spec.name);
    let group = Group::make(&path)
        .inspect_err(|error| logs.event(format_args!("service={} cgroup=none error=\"{error}\"", spec.name)))
        .ok()?;
    for (file, error) in group.limit(&spec.limits) {
        logs.event(format_args!("service={} limit={file} error=\"{error}\"", spec.name));
    }
    if let Some(Err(error)) = watch.map(|watch| watch.add(&path)) {
        logs.event(format_args!("service={} watch=none error=\"{error}\"", spec.name));
    }
    Some(group)
}

fn weigh(spec: &Spec, group: &Group, weight: u16, logs: &mut Logs) {
    if let Err(error) = group.write("cpu.weight", &weight.to_string()) {
        logs.event(format_args!("service={} limit=cpu.weight error=\"{error}\"", spec.name));
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn number(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Int => rustix::process::Signal::INT,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

fn explain(note: &Note) -> String {
    match note {
        Note::Ended(exit, delay) => {
            format!("state=ended exit=\"{}\" again_in_ms={}", describe(*exit), delay.as_millis())
        }
        Note::SpawnFailed(delay) => format!("state=not-started again_in_ms={}", delay.as_millis()),
        Note::NotReadyInTime => "state=killed reason=\"not ready in time\"".to_owned(),
        Note::Hung => "state=killed reason=hung".to_owned(),
        Note::NotEndedInTime => "state=killed reason=\"did not end in time\"".to_owned(),
        Note::NotKilledInTime => "state=killed reason=\"processes left after a kill\"".to_owned(),
    }
}

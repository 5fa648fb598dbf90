//! PID 1's life after the start: one loop that waits for everything at once and never for one thing.

use std::path::Path;
use std::time::Duration;

use perigee_core::control::{Fault, INIT, Request, Response, Slots, Status};
use perigee_core::reset::{Cause, Rung, Tried, climb};
use perigee_core::service::{Event, Exit, Id};
use perigee_core::slot::{Side, Slot, Standing, State};
use perigee_core::watchdog::{Order, Vital, WINDOW};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::boot_state::BootState;
use crate::control::Control;
use crate::data::{self, Data, Health};
use crate::haste::Haste;
use crate::late::Late;
use crate::logs::Logs;
use crate::network::Network;
use crate::notify::Notify;
use crate::poller::{Poller, Source};
use crate::services::Services;
use crate::shutdown::{self, Goal, Phase, Shutdown};
use crate::sys;
use crate::sys::signals::{self, Heard};
use crate::vitals::Vitals;

/// Between two looks at the data partition and at what was dropped.
const WATCH_PERIOD: Duration = Duration::from_secs(60);
/// A log writer that ends is started again, but not in a circle.
const WRITER_PAUSE: Duration = Duration::from_secs(5);
/// A data partition that fails sooner after the boot than this was not mended by that boot, and will not be by
/// another: what still runs is worth more.
const MENDING_PAYS_AFTER: Duration = Duration::from_mins(15);
/// While pods end, nothing tells of the last one.
const SHUTDOWN_PERIOD: Duration = Duration::from_millis(50);
/// On a kernel that was started by hand.
const NO_BOOT_STATE: &str =
    "this node was not started by the loader, or its boot state is lost: nothing is known of slots";
/// Longest log in one answer: JSON makes six bytes of a control character.
const MOST_LOG: usize = perigee_core::control::MAX_LINE_BYTES / 6 - 64;

/// Who this node is.
pub struct Identity {
    /// Its name in the mission.
    pub node: String,
    /// The image's version.
    pub version: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// When PID 1 started.
    pub started: Duration,
}

/// Everything that the loop looks after.
pub struct Supervisor {
    /// The wait.
    pub poller: Poller,
    /// Signals, as a descriptor.
    pub signals: OwnedFd,
    /// All logs.
    pub logs: Logs,
    /// All services.
    pub services: Services,
    /// The links, if the kernel has a network.
    pub network: Option<Network>,
    /// NOTIFY_SOCKET.
    pub notify: Option<Notify>,
    /// The control socket.
    pub control: Option<Control>,
    /// The data partition.
    pub data: Data,
    /// What the next start depends on, where there is a loader.
    pub boot_state: Option<BootState>,
    /// What must hold for the watchdog to be stroked.
    pub vitals: Vitals,
    /// Who this node is.
    pub identity: Identity,
    /// The way down, once it has begun.
    pub shutdown: Option<Shutdown>,
    /// The child that leaves the storage.
    pub storage: Option<Pid>,
    /// Until the node is ready.
    pub haste: Option<Haste>,
    /// Until it is done.
    pub late: Option<Late>,
    /// The next look at the data partition.
    pub watch_at: Duration,
    /// The next start of the log writer.
    pub writer_at: Option<Duration>,
}

impl Supervisor {
    /// Runs until the machine goes down.
    pub fn run(mut self) -> Goal {
        loop {
            let timeout = self.deadline().map(|deadline| deadline.saturating_sub(sys::now()));
            for source in self.poller.wait(timeout) {
                self.take(source);
            }
            self.tick();
            if let Some(Shutdown { phase: Phase::Over, goal, .. }) = self.shutdown {
                return goal;
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.services.handle(sys::now(), event, &self.poller, &mut self.logs);
    }

    fn deadline(&self) -> Option<Duration> {
        let shutdown = self.shutdown.map(|shutdown| match shutdown.phase {
            Phase::Pods | Phase::Remains => shutdown.deadline.min(sys::now() + SHUTDOWN_PERIOD),
            _ => shutdown.deadline,
        });
        let control = self.control.as_ref().and_then(Control::deadline);
        let network = self.network.as_ref().and_then(Network::deadline);
        let haste = self.haste.as_ref().map(Haste::deadline);
        let late = self.late.as_ref().map(Late::deadline);
        let (data, vitals) = (self.data.deadline(), Some(self.vitals.deadline()));
        let services = self.services.deadline();
        [services, data, late, control, network, shutdown, haste, vitals, self.writer_at, Some(self.watch_at)]
            .into_iter()
            .flatten()
            .min()
    }

    fn take(&mut self, source: Source) {
        let now = sys::now();
        match source {
            Source::Signals => {
                while let Some(heard) = signals::next(&self.signals) {
                    match heard {
                        Heard::Child => self.reap(now),
                        Heard::Reboot => self.go_down(Goal::Reboot, Cause::Command, "signal"),
                        Heard::PowerOff => self.go_down(Goal::PowerOff, Cause::Command, "signal"),
                    }
                }
            }
            Source::Cgroups => self.services.look_for_empty(now, &self.poller, &mut self.logs),
            Source::Notify => self.hear(now),
            Source::Network => {
                if let Some(network) = &mut self.network {
                    network.readable(now, &mut self.logs);
                }
            }
            Source::Control => {
                if let Some(control) = &mut self.control {
                    control.accept(now, &self.poller);
                }
            }
            Source::Client(slot) => self.serve(slot, now),
            Source::Probe(id) => self.services.probe_ready(now, id, &self.poller, &mut self.logs),
            Source::Output(id) => {
                self.services.read_output(id, &mut self.logs);
            }
            Source::Check => self.data.readable(),
        }
    }

    /// Waits for every child that has ended: services, helpers, and orphans that became PID 1's.
    fn reap(&mut self, now: Duration) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.services.ended(now, pid, exit(status), &self.poller, &mut self.logs)
                || self.data.ended(pid, exit(status), &self.poller, &mut self.logs)
            {
                continue;
            }
            if self.logs.writer_ended(pid) {
                self.logs.event(format_args!("log_writer=ended status={:?}", exit(status)));
                self.writer_at = Some(now + WRITER_PAUSE);
            }
            if self.storage == Some(pid) {
                self.storage = None;
            }
            let good = exit(status) == Exit::Code(0);
            self.vitals.writer_ended(pid, good, now);
            if let Some(boot_state) = &mut self.boot_state {
                boot_state.writer_ended(pid, good, &mut self.logs);
            }
        }
        self.services.look_for_empty(now, &self.poller, &mut self.logs);
    }

    fn hear(&mut self, now: Duration) {
        // One message a turn: a service that shouts must not keep PID 1 from the others.
        let Some((service, message)) = self.notify.as_ref().and_then(Notify::next) else { return };
        let Some(id) = self.services.find(&service) else { return };
        for (said, event) in [(message.ready, Event::NotifiedReady(id)), (message.alive, Event::NotifiedAlive(id))] {
            if said {
                self.services.handle(now, event, &self.poller, &mut self.logs);
            }
        }
    }

    fn serve(&mut self, slot: u16, now: Duration) {
        let mut request = self.control.as_mut().and_then(|control| control.ready(slot, now, &self.poller));
        while let Some(asked) = request {
            let response = match asked {
                Ok(request) => self.answer(request),
                Err(mistake) => Response::Error(mistake),
            };
            request = self.control.as_mut().and_then(|control| control.respond(slot, &response, &self.poller));
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(self.status()),
            Request::Logs { service } => match self.logs.text(&service, MOST_LOG) {
                Some(text) => Response::Logs(text),
                None => unknown(&service),
            },
            Request::Start { service } => self.wish(&service, Event::Start),
            Request::Stop { service } => self.wish(&service, Event::Stop),
            Request::Restart { service } => self.wish(&service, Event::Restart),
            Request::Fault { service, fault } => self.fault(&service, fault),
            Request::Reboot => {
                self.go_down(Goal::Reboot, Cause::Command, "request");
                Response::Done
            }
            Request::Slots => match &self.boot_state {
                Some(boot_state) => Response::Slots(Slots::of(boot_state.state(), boot_state.slot())),
                None => Response::Error(NO_BOOT_STATE.to_owned()),
            },
            Request::RebootInto { slot } => self.reboot_into(&slot),
            Request::PowerOff => {
                self.go_down(Goal::PowerOff, Cause::Command, "request");
                Response::Done
            }
            Request::SlotClear { slot } => self.change_slot(&slot, State::clear),
            Request::SlotWritten { slot, floor } => self.change_slot(&slot, |state, side| state.written(side, floor)),
            Request::SlotPrefer { slot } => self.prefer_slot(&slot),
            Request::Scrub
            | Request::Scrubs
            | Request::Processes
            | Request::Inspect
            | Request::UpdateBegin { .. }
            | Request::UpdatePut { .. }
            | Request::Update
            | Request::UpdateActivate { .. }
            | Request::UpdateCancel => {
                Response::Error("PID 1 does not know; ask the agent (/run/perigee/agent.sock)".to_owned())
            }
        }
    }

    fn reboot_into(&mut self, name: &str) -> Response {
        let Some(boot_state) = &mut self.boot_state else { return Response::Error(NO_BOOT_STATE.to_owned()) };
        let Some(slot) = slot_called(name) else {
            let known = Slot::ALL.map(Slot::name).join(", ");
            return Response::Error(format!("`{name}` is no slot; expected one of: {known}"));
        };
        if boot_state.state().standing(slot) == Standing::Empty {
            return Response::Error(format!("{name} is empty; `slots` tells which have an image"));
        }
        boot_state.change(&mut self.logs, |state| state.once = Some(slot));
        self.go_down(Goal::Reboot, Cause::Command, &format!("reboot into {name}"));
        Response::Done
    }

    /// What the agent says of a slot that it writes.
    fn change_slot(&mut self, name: &str, change: impl FnOnce(&mut State, Side)) -> Response {
        let Some(boot_state) = &mut self.boot_state else { return Response::Error(NO_BOOT_STATE.to_owned()) };
        let side = slot_called(name).and_then(Side::of).filter(|side| side.slot() != boot_state.slot());
        let Some(side) = side else {
            return Response::Error(format!("`{name}` cannot be written: it runs, or is none that updates go to"));
        };
        boot_state.change(&mut self.logs, |state| change(state, side));
        Response::Done
    }

    fn prefer_slot(&mut self, name: &str) -> Response {
        let Some(boot_state) = &mut self.boot_state else { return Response::Error(NO_BOOT_STATE.to_owned()) };
        let side = slot_called(name).and_then(Side::of);
        let Some(side) = side.filter(|side| boot_state.state().standing(side.slot()) != Standing::Empty) else {
            return Response::Error(format!("`{name}` cannot come first: it is empty, or is none that updates go to"));
        };
        boot_state.change(&mut self.logs, |state| state.prefer(side));
        Response::Done
    }

    fn wish(&mut self, service: &str, wish: impl FnOnce(Id) -> Event) -> Response {
        let Some(id) = self.services.find(service) else { return unknown(service) };
        let event = wish(id);
        self.logs.event(format_args!("service={service} request={event:?}"));
        self.tell(event);
        Response::Done
    }

    fn fault(&mut self, service: &str, fault: Fault) -> Response {
        if service == INIT {
            self.logs.event(format_args!("drill={fault:?} of=init"));
            match fault {
                Fault::Kill => std::process::abort(),
                Fault::Stop | Fault::Freeze => hang(),
            }
        }
        let Some(id) = self.services.find(service) else { return unknown(service) };
        self.logs.event(format_args!("service={service} drill={fault:?}"));
        match self.services.fault(id, fault) {
            Ok(()) => Response::Done,
            Err(error) => Response::Error(format!("{service}: {error}")),
        }
    }

    fn status(&self) -> Status {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Status {
            node: self.identity.node.clone(),
            version: self.identity.version.clone(),
            boot_id: self.identity.boot_id.clone(),
            now_ms: milliseconds(sys::now()),
            pid1_started_ms: milliseconds(self.identity.started),
            data: self.data.status(),
            services: self.services.status(),
            links: self.network.as_ref().map(Network::status).unwrap_or_default(),
        }
    }

    /// What is due by time.
    fn tick(&mut self) {
        let now = sys::now();
        self.services.tick(now, &self.poller, &mut self.logs);
        if let Some(network) = &mut self.network {
            network.tick(now);
        }
        if let Some(control) = &mut self.control {
            control.expire(now);
        }
        if self.shutdown.is_none() && self.data.tick(now, &mut self.logs) {
            self.begin_with_data(now);
        }
        if self.late.as_ref().is_some_and(|late| late.deadline() <= now) {
            self.finish_start();
        }
        if self.writer_at.is_some_and(|at| at <= now) {
            self.writer_at = None;
            if let Err(error) = self.logs.start_writer(Path::new(data::LOG)) {
                self.logs.event(format_args!("log_writer=none error=\"{error}\""));
                self.writer_at = Some(now + WRITER_PAUSE);
            }
        }
        while let Some(order) = self.vitals.tick(now, &self.services) {
            self.obey(order);
        }
        if let Some(haste) = self.haste.take_if(|haste| self.services.all_ready() || haste.deadline() <= now) {
            haste.end();
        }
        if self.watch_at <= now {
            self.watch_at = now + WATCH_PERIOD;
            self.watch(now);
        }
        self.advance_shutdown(now);
    }

    /// /data and /var are there.
    fn begin_with_data(&mut self, now: Duration) {
        self.tell(Event::DataMounted);
        self.finish_start();
        self.vitals.begin(self.boot_state.as_ref().map(BootState::slot), now);
        if self.data.is_kept() {
            self.writer_at = Some(now);
        }
        self.watch_at = now;
    }

    /// Does what is left of the start.
    fn finish_start(&mut self) {
        if let Some(late) = self.late.take() {
            self.boot_state = late.finish(&mut self.logs);
        }
    }

    /// Nobody told golden what to do for as long as it waits for that: the others get another try.
    fn leave_golden(&mut self, now: Duration) {
        let Some(boot_state) = &mut self.boot_state else { return };
        if boot_state.slot() == Slot::Golden && now >= boot_state.state().golden_stay() {
            boot_state.change(&mut self.logs, State::retry);
            self.go_down(Goal::Reboot, Cause::Command, "golden has waited long enough");
        }
    }

    fn watch(&mut self, now: Duration) {
        if self.shutdown.is_none() {
            self.leave_golden(now);
        }
        let dropped = self.logs.take_dropped();
        if dropped > 0 {
            self.logs.event(format_args!("logs=dropped pieces={dropped}"));
        }
        if self.shutdown.is_none() && self.data.watch(&mut self.logs) == Health::ReadOnly {
            self.logs.event(format_args!("data=read-only reason=\"the kernel found an error in it\""));
            if now >= MENDING_PAYS_AFTER {
                self.go_down(Goal::Reboot, Cause::Vital(Vital::Data), "the kernel found an error in data");
            }
        }
    }

    /// Does what the vitals ask for.
    fn obey(&mut self, order: Order) {
        match order {
            Order::Confirm => {
                let Some(boot_state) = &mut self.boot_state else { return };
                let slot = boot_state.slot();
                self.logs.event(format_args!("slot={} state=confirmed", slot.name()));
                boot_state.change(&mut self.logs, |state| state.confirm(slot));
            }
            Order::RestartGroup(vital) => {
                self.logs.event(format_args!("vital={vital} state=lost rung={:?}", Rung::Group));
                let id = vital.service().and_then(|name| self.services.find(name));
                for id in id.map(|id| self.services.group(id)).unwrap_or_default() {
                    self.tell(Event::Restart(id));
                }
            }
            Order::Reboot(vital) => {
                let rung = self.boot_state.as_ref().map_or(Rung::Reboot, |state| climb(Tried::Group, state.state()));
                self.logs.event(format_args!("vital={vital} state=lost rung={rung:?}"));
                let words = self.last_words(vital);
                self.go_down(Goal::Reboot, Cause::Vital(vital), &words);
            }
        }
    }

    /// What the service of a vital said last.
    fn last_words(&self, vital: Vital) -> String {
        let id = vital.service().and_then(|name| self.services.find(name));
        id.map_or_else(String::new, |id| self.logs.last_line(id))
    }

    fn go_down(&mut self, goal: Goal, cause: Cause, words: &str) {
        if self.shutdown.is_none() {
            let now = sys::now();
            self.logs.event(format_args!("shutdown={goal:?} cause={cause} reason=\"{words}\""));
            self.data.abandon(&mut self.logs);
            // The boot state has to learn of it.
            self.finish_start();
            self.shutdown = Some(Shutdown::new(goal, now));
            self.vitals.end(now);
            let uptime_s = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
            if let Some(boot_state) = &mut self.boot_state {
                boot_state.change(&mut self.logs, |state: &mut State| state.end(cause, uptime_s, words));
            }
            self.tell(Event::Shutdown);
        }
    }

    fn advance_shutdown(&mut self, now: Duration) {
        let Some(shutdown) = &mut self.shutdown else { return };
        let done = match shutdown.phase {
            Phase::Services => self.services.is_down(),
            Phase::Pods => shutdown::pods_are_gone(),
            Phase::Remains => shutdown::remains_are_gone(),
            Phase::Storage => self.storage.is_none() && self.boot_state.as_ref().is_none_or(BootState::is_written),
            Phase::Over => return,
        };
        let Some(phase) = shutdown.advance(now, done) else { return };
        self.logs.event(format_args!("shutdown={phase:?} previous_done={done}"));
        match phase {
            Phase::Services | Phase::Over => {}
            Phase::Pods => shutdown::ask_pods(),
            Phase::Remains => shutdown::kill_remains(),
            Phase::Storage => {
                self.logs.stop_writer();
                // Without a child there is no orderly end of the storage; ext4's journal has seen worse.
                self.storage = sys::process::helper(c"init-storage", None, shutdown::leave_storage).ok();
            }
        }
    }
}

/// What the watchdog is for.
fn hang() -> ! {
    loop {
        std::thread::sleep(WINDOW);
    }
}

fn slot_called(name: &str) -> Option<Slot> {
    Slot::ALL.into_iter().find(|slot| slot.name() == name)
}

fn unknown(service: &str) -> Response {
    Response::Error(format!("`{service}` is no service of this node; `status` lists them"))
}

fn exit(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

//! What the service graph does, one sentence a test. What it does when everything goes wrong at once is for `simulation`.

use std::time::Duration;

use perigee_core::control::ServiceState as Shown;
use perigee_core::service::{Action, Event, Exit, Graph, Id, Note};
use perigee_core::spec::{self, Probe, Signal};

const A: Id = Id(0);
const B: Id = Id(1);
const C: Id = Id(2);

struct Node {
    graph: Graph,
    now: Duration,
}

impl Node {
    /// Services `a`, `b`, … with these keys, on a worker.
    fn new(services: &[&str]) -> Self {
        let specs = services.iter().zip('a'..).map(|(keys, name)| {
            let name = name.to_string();
            let text = format!("description = \"x\"\nexec = [\"/x\"]\n{keys}");
            spec::parse(&name, &name, &text).unwrap_or_else(|error| panic!("{error}"))
        });
        let graph = Graph::new(specs.collect(), &["worker".to_owned()]).unwrap_or_else(|error| panic!("{error}"));
        Self { graph, now: Duration::from_secs(1) }
    }

    /// The same after Boot.
    fn booted(services: &[&str]) -> (Self, Vec<Action>) {
        let mut node = Self::new(services);
        let actions = node.on(Event::Boot);
        (node, actions)
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.graph.step(self.now, event, &mut actions);
        actions
    }

    /// Ticks when the graph wants it, for so many milliseconds.
    fn wait(&mut self, millis: u64) -> Vec<Action> {
        let end = self.now + Duration::from_millis(millis);
        let mut actions = Vec::new();
        while let Some(deadline) = self.graph.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            actions.extend(self.on(Event::Tick));
        }
        self.now = end;
        actions
    }

    /// A process that ended by itself is gone with all that it left.
    fn crash(&mut self, id: Id) -> Duration {
        let actions = self.on(Event::Exited(id, Exit::Code(1)));
        let [Action::Kill(_), Action::Note(_, Note::Ended(Exit::Code(1), delay))] = actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(self.on(Event::Empty(id)), []);
        delay
    }

    fn states(&self) -> Vec<Shown> {
        self.graph.ids().map(|id| self.graph.state(id)).collect()
    }
}

#[test]
fn services_start_when_what_they_come_after_is_ready() {
    let (mut node, actions) = Node::booted(&["", "after = [\"a\"]\n[ready]\nnotify = true", "after = [\"a\", \"b\"]"]);
    assert_eq!(actions, [Action::Spawn(A)]);
    assert_eq!(node.on(Event::Spawned(A)), [Action::Ready(A), Action::Spawn(B)]);
    assert_eq!(node.on(Event::Spawned(B)), []);
    assert_eq!(node.states(), [Shown::Ready, Shown::Starting, Shown::Waiting]);
    assert_eq!(node.on(Event::NotifiedReady(B)), [Action::Ready(B), Action::Spawn(C)]);
}

#[test]
fn nothing_starts_before_boot() {
    let mut node = Node::new(&[""]);
    assert_eq!(node.on(Event::Tick), []);
    assert_eq!(node.on(Event::Restart(A)), []);
    assert_eq!(node.states(), [Shown::Waiting]);
    assert_eq!(node.on(Event::Boot), [Action::Spawn(A)]);
    assert_eq!(node.on(Event::Boot), []);
}

#[test]
fn what_has_folders_on_data_waits_for_it() {
    let services = ["directories = [\"/var/lib/a\"]", "directories = [\"/run/b\"]", "directories = [\"/data/c\"]"];
    let (mut node, actions) = Node::booted(&services);
    assert_eq!(actions, [Action::Spawn(B)]);
    assert_eq!(node.on(Event::Restart(A)), []);
    assert_eq!(node.states(), [Shown::Waiting, Shown::Starting, Shown::Waiting]);
    assert_eq!(node.on(Event::DataMounted), [Action::Spawn(A), Action::Spawn(C)]);
    assert_eq!(node.on(Event::DataMounted), []);
}

#[test]
fn data_alone_starts_nothing() {
    let mut node = Node::new(&["directories = [\"/var/lib/a\"]"]);
    assert_eq!(node.on(Event::DataMounted), []);
    assert_eq!(node.on(Event::Boot), [Action::Spawn(A)]);
}

#[test]
fn services_of_other_roles_are_not_there_and_nobody_waits_for_them() {
    let (node, actions) =
        Node::booted(&["roles = [\"control-plane\"]", "after = [\"a\"]", "hold = { until = \"a\", at_most_s = 9 }"]);
    assert_eq!(actions, [Action::Spawn(Id(0)), Action::Spawn(Id(1))]);
    assert_eq!((node.graph.find("a"), node.graph.find("b"), node.graph.find("c")), (None, Some(Id(0)), Some(Id(1))));
}

#[test]
fn a_hold_ends_when_the_other_is_ready() {
    let hold = "hold = { until = \"a\", at_most_s = 10 }";
    let (mut node, actions) = Node::booted(&["[ready]\nnotify = true", hold]);
    assert_eq!(actions, [Action::Spawn(A)]);
    node.on(Event::Spawned(A));
    assert_eq!(node.on(Event::NotifiedReady(A)), [Action::Ready(A), Action::Spawn(B)]);
}

#[test]
fn a_hold_ends_after_its_time_and_counts_for_the_first_start_only() {
    let hold = "hold = { until = \"a\", at_most_s = 10 }";
    let (mut node, _) = Node::booted(&["[ready]\nnotify = true\ntimeout_s = 100", hold]);
    node.on(Event::Spawned(A));
    assert_eq!(node.wait(9_999), []);
    assert_eq!(node.wait(1), [Action::Spawn(B)]);
    node.on(Event::Spawned(B));
    assert_eq!(node.crash(B), Duration::from_millis(500));
    assert_eq!(node.wait(500), [Action::Spawn(B)]);
}

#[test]
fn a_oneshot_is_ready_when_it_ends_well_and_tried_again_when_not() {
    let (mut node, _) = Node::booted(&["kind = \"oneshot\"", "after = [\"a\"]"]);
    assert_eq!(node.on(Event::Spawned(A)), []);
    node.crash(A);
    assert_eq!(node.states(), [Shown::BackOff, Shown::Waiting]);
    assert_eq!(node.wait(500), [Action::Spawn(A)]);
    node.on(Event::Spawned(A));
    assert_eq!(node.on(Event::Exited(A, Exit::Code(0))), [Action::Ready(A), Action::Spawn(B)]);
    assert_eq!(node.wait(1_000_000), []);
    assert_eq!((node.graph.state(A), node.graph.restarts(A)), (Shown::Ready, 1));
}

#[test]
fn the_back_off_doubles_up_to_its_bound_and_starts_over_after_being_ready_long_enough() {
    let (mut node, _) = Node::booted(&["restart = { min_ms = 400, max_s = 2, reset_s = 10 }"]);
    for delay in [400, 800, 1600, 2000, 2000] {
        node.on(Event::Spawned(A));
        node.wait(9_999);
        assert_eq!(node.crash(A), Duration::from_millis(delay));
        assert_eq!(node.wait(delay - 1), []);
        assert_eq!(node.wait(1), [Action::Spawn(A)]);
    }
    node.on(Event::Spawned(A));
    node.wait(10_000);
    assert_eq!(node.crash(A), Duration::from_millis(400));
}

#[test]
fn a_start_that_fails_backs_off_too() {
    let (mut node, _) = Node::booted(&[""]);
    for delay in [500, 1000, 2000] {
        let delay = Duration::from_millis(delay);
        assert_eq!(node.on(Event::SpawnFailed(A)), [Action::Note(A, Note::SpawnFailed(delay))]);
        assert_eq!(node.wait(2000), [Action::Spawn(A)]);
    }
}

#[test]
fn what_a_process_leaves_behind_is_gone_before_the_next_one_starts() {
    let (mut node, _) = Node::booted(&[""]);
    node.on(Event::Spawned(A));
    node.on(Event::Exited(A, Exit::Signal(11)));
    assert_eq!(node.wait(14_000), [Action::Note(A, Note::NotKilledInTime), Action::Kill(A), Action::Kill(A)]);
    node.on(Event::Empty(A));
    assert_eq!(node.wait(500), [Action::Spawn(A)]);
    assert_eq!(node.graph.last_exit(A), Some(Exit::Signal(11)));
}

#[test]
fn a_service_that_is_not_ready_in_time_is_killed() {
    let (mut node, _) = Node::booted(&["[ready]\nnotify = true\ntimeout_s = 5"]);
    node.on(Event::Spawned(A));
    assert_eq!(node.wait(4_999), []);
    assert_eq!(node.wait(1), [Action::Note(A, Note::NotReadyInTime), Action::Kill(A)]);
    assert_eq!(node.on(Event::Empty(A)), []);
    assert_eq!(node.on(Event::Exited(A, Exit::Signal(9))), []);
    assert_eq!(node.wait(500), [Action::Spawn(A)]);
}

#[test]
fn a_watchdog_that_is_not_heard_in_time_is_a_hang() {
    let (mut node, _) = Node::booted(&["[health]\nwatchdog_s = 10"]);
    node.on(Event::Spawned(A));
    node.wait(9_000);
    node.on(Event::NotifiedAlive(A));
    assert_eq!(node.wait(9_999), []);
    assert_eq!(node.wait(1), [Action::Note(A, Note::Hung), Action::Kill(A)]);
}

#[test]
fn probes_are_asked_one_at_a_time_and_so_many_failures_in_a_row_are_a_hang() {
    let probe = Probe::File("/run/x".to_owned());
    let ask = |seconds| Action::Probe(A, probe.clone(), Duration::from_secs(seconds));
    let (mut node, _) = Node::booted(&[
        "[ready]\nfile = \"/run/x\"\n[health]\nfile = \"/run/x\"\nperiod_s = 20\ntimeout_s = 2\nfailures = 2",
    ]);
    node.on(Event::Spawned(A));
    assert_eq!(node.wait(250), [ask(5)]);
    assert_eq!(node.wait(1_000), []);
    assert_eq!(node.on(Event::Probed(A, false)), []);
    assert_eq!(node.wait(250), [ask(5)]);
    assert_eq!(node.on(Event::Probed(A, true)), [Action::Ready(A)]);
    for good in [true, false, true, false] {
        assert_eq!(node.wait(20_000), [ask(2)]);
        assert_eq!(node.on(Event::Probed(A, good)), []);
    }
    assert_eq!(node.wait(20_000), [ask(2)]);
    assert_eq!(node.on(Event::Probed(A, false)), [Action::Note(A, Note::Hung), Action::Kill(A)]);
}

#[test]
fn an_answer_that_never_comes_is_a_failure() {
    let (mut node, _) = Node::booted(&["[health]\nfile = \"/run/x\"\nperiod_s = 20\ntimeout_s = 2\nfailures = 1"]);
    node.on(Event::Spawned(A));
    assert_eq!(node.wait(20_000).len(), 1);
    assert_eq!(node.wait(7_000), [Action::Note(A, Note::Hung), Action::Kill(A)]);
}

#[test]
fn an_answer_about_the_process_before_says_nothing_about_this_one() {
    let (mut node, _) = Node::booted(&["[ready]\nfile = \"/run/x\""]);
    node.on(Event::Spawned(A));
    assert_eq!(node.wait(250).len(), 1);
    node.crash(A);
    assert_eq!(node.wait(500), [Action::Spawn(A)]);
    node.on(Event::Spawned(A));
    assert_eq!(node.on(Event::Probed(A, true)), []);
    assert_eq!(node.wait(250).len(), 1);
    assert_eq!(node.on(Event::Probed(A, true)), [Action::Ready(A)]);
}

#[test]
fn a_stop_asks_first_then_kills_and_leaves_those_that_come_after_alone() {
    let (mut node, _) = Node::booted(&["[stop]\nsignal = \"INT\"\ntimeout_s = 3", "after = [\"a\"]"]);
    node.on(Event::Spawned(A));
    node.on(Event::Spawned(B));
    assert_eq!(node.on(Event::Stop(A)), [Action::Signal(A, Signal::Int)]);
    assert_eq!(node.on(Event::Stop(A)), []);
    assert_eq!(node.wait(2_999), []);
    assert_eq!(node.wait(1), [Action::Note(A, Note::NotEndedInTime), Action::Kill(A)]);
    node.on(Event::Exited(A, Exit::Signal(9)));
    node.on(Event::Empty(A));
    assert_eq!(node.wait(1_000_000), []);
    assert_eq!(node.states(), [Shown::Stopped, Shown::Ready]);
}

#[test]
fn a_restart_ends_it_and_starts_it_again_without_back_off() {
    let (mut node, _) = Node::booted(&[""]);
    node.on(Event::Spawned(A));
    assert_eq!(node.on(Event::Restart(A)), [Action::Signal(A, Signal::Term)]);
    assert_eq!(node.on(Event::Exited(A, Exit::Code(0))), [Action::Kill(A)]);
    assert_eq!(node.on(Event::Empty(A)), [Action::Spawn(A)]);
    assert_eq!(node.graph.restarts(A), 1);
}

#[test]
fn a_restart_during_back_off_starts_at_once_and_the_back_off_starts_over() {
    let (mut node, _) = Node::booted(&[""]);
    node.on(Event::Spawned(A));
    node.crash(A);
    assert_eq!(node.on(Event::Start(A)), []);
    assert_eq!(node.on(Event::Restart(A)), [Action::Spawn(A)]);
    node.on(Event::Spawned(A));
    assert_eq!(node.crash(A), Duration::from_millis(500));
}

#[test]
fn a_start_while_stopping_starts_after_the_stop() {
    let (mut node, _) = Node::booted(&[""]);
    node.on(Event::Spawned(A));
    node.on(Event::Stop(A));
    assert_eq!(node.on(Event::Start(A)), []);
    assert_eq!(node.on(Event::Exited(A, Exit::Code(0))), [Action::Kill(A)]);
    assert_eq!(node.on(Event::Empty(A)), [Action::Spawn(A)]);
}

#[test]
fn a_stop_before_the_start_is_answered_ends_it_then() {
    let (mut node, _) = Node::booted(&[""]);
    assert_eq!(node.on(Event::Stop(A)), []);
    assert_eq!(node.on(Event::Spawned(A)), [Action::Ready(A), Action::Signal(A, Signal::Term)]);
}

#[test]
fn a_shutdown_goes_backwards_and_ends_once() {
    let (mut node, _) =
        Node::booted(&["", "after = [\"a\"]", "after = [\"b\"]", "kind = \"oneshot\"\nafter = [\"a\"]"]);
    for id in [A, B, C] {
        node.on(Event::Spawned(id));
    }
    let once = Id(3);
    node.on(Event::Spawned(once));
    node.on(Event::Exited(once, Exit::Code(0)));
    assert_eq!(node.on(Event::Shutdown), [Action::Kill(once), Action::Signal(C, Signal::Term)]);
    assert_eq!(node.on(Event::Empty(once)), []);
    assert_eq!(node.on(Event::Exited(C, Exit::Code(0))), [Action::Kill(C)]);
    assert_eq!(node.on(Event::Empty(C)), [Action::Signal(B, Signal::Term)]);
    assert_eq!(node.on(Event::Start(C)), []);
    assert_eq!(node.on(Event::Exited(B, Exit::Code(0))), [Action::Kill(B)]);
    assert_eq!(node.on(Event::Empty(B)), [Action::Signal(A, Signal::Term)]);
    // It does not end, it does not die: it is left behind.
    assert_eq!(node.wait(10_000), [Action::Note(A, Note::NotEndedInTime), Action::Kill(A)]);
    assert_eq!(node.wait(5_000), [Action::Note(A, Note::NotKilledInTime), Action::Down]);
    for event in [Event::Shutdown, Event::Restart(A), Event::Boot, Event::DataMounted, Event::Tick, Event::Empty(A)] {
        assert_eq!(node.on(event), []);
    }
}

#[test]
fn a_group_is_a_service_and_all_that_come_after_it_in_the_order_in_which_they_start() {
    let node = Node::new(&["after = [\"c\", \"d\"]", "after = [\"c\"]", "after = [\"d\"]", "", ""]);
    let [d, e] = [Id(3), Id(4)];
    assert_eq!(node.graph.group(d), [d, C, A, B]);
    assert_eq!(node.graph.group(C), [C, A, B]);
    assert_eq!((node.graph.group(A), node.graph.group(e)), (vec![A], vec![e]));
}

#[test]
fn a_node_without_services_goes_down_at_once() {
    let (mut node, actions) = Node::booted(&[]);
    assert_eq!((actions, node.graph.deadline()), (vec![], None));
    assert_eq!(node.on(Event::Shutdown), [Action::Down]);
}

#[test]
fn a_state_knows_since_when_it_is() {
    let (mut node, _) = Node::booted(&["[ready]\nnotify = true"]);
    node.wait(3_000);
    node.on(Event::Spawned(A));
    assert_eq!(node.graph.since(A), Duration::from_secs(1));
    node.on(Event::NotifiedReady(A));
    assert_eq!(node.graph.since(A), Duration::from_secs(4));
    node.wait(3_000);
    assert_eq!((node.graph.state(A), node.graph.since(A)), (Shown::Ready, Duration::from_secs(4)));
}

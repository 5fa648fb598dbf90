//! When PID 1 strokes, restarts, reboots and confirms.

mod random;

use std::time::Duration;

use perigee_core::watchdog::{Order, Times, Vital, Watchdog};
use random::Random;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const TIMES: Times = Times { first: s(600), again: s(180), confirm: s(60), end: s(90) };

fn watchdog() -> Watchdog {
    Watchdog::new(&Vital::ALL, TIMES, s(10))
}

fn report_all(watchdog: &mut Watchdog, holds: bool, now: Duration) {
    Vital::ALL.iter().for_each(|vital| watchdog.report(*vital, holds, now));
}

#[test]
fn the_command_line_may_say_other_times_and_nonsense_changes_nothing() {
    let line = "quiet perigee.first_s=60 perigee.again_s=0 perigee.confirm_s=x perigee.end_s=1 perigee.first perigee.again_s=30";
    assert_eq!(TIMES.with(line), Times { first: s(60), again: s(30), ..TIMES });
    assert_eq!(TIMES.with("perigee.confirm_s=5"), Times { confirm: s(5), ..TIMES });
    assert_eq!(TIMES.with(""), TIMES);
}

#[test]
fn a_slot_is_confirmed_once_when_all_vitals_have_held_without_a_gap() {
    let mut watchdog = watchdog();
    assert_eq!(watchdog.next_deadline(), Some(s(610)));
    for vital in [Vital::Data, Vital::Agent, Vital::Containerd] {
        watchdog.report(vital, true, s(20));
    }
    assert_eq!(watchdog.next_order(s(500)), None, "the kubelet was not heard");
    watchdog.report(Vital::Kubelet, true, s(30));
    assert_eq!(watchdog.next_deadline(), Some(s(90)));
    assert_eq!(watchdog.next_order(s(89)), None);
    watchdog.report(Vital::Agent, false, s(89));
    assert_eq!(watchdog.next_order(s(100)), None, "the agent was lost");
    watchdog.report(Vital::Agent, true, s(100));
    report_all(&mut watchdog, true, s(130));
    assert_eq!(watchdog.next_order(s(159)), None);
    assert_eq!(watchdog.next_order(s(160)), Some(Order::Confirm));
    assert_eq!((watchdog.next_order(s(999)), watchdog.next_deadline()), (None, None));
    watchdog.report(Vital::Agent, false, s(1000));
    watchdog.report(Vital::Agent, true, s(1001));
    assert_eq!(watchdog.next_order(s(9999)), None, "it is confirmed already");
    assert!(watchdog.may_stroke(s(9999)));
}

#[test]
fn a_vital_that_is_lost_has_time_then_its_group_is_restarted_then_the_node_is_rebooted() {
    let mut watchdog = watchdog();
    report_all(&mut watchdog, true, s(20));
    watchdog.report(Vital::Kubelet, false, s(50));
    watchdog.report(Vital::Kubelet, false, s(200));
    assert_eq!(watchdog.next_deadline(), Some(s(230)), "it counts from when it was lost");
    assert_eq!(watchdog.next_order(s(229)), None);
    assert_eq!(watchdog.next_order(s(230)), Some(Order::RestartGroup(Vital::Kubelet)));
    assert_eq!(watchdog.next_order(s(230)), None);
    assert_eq!(watchdog.next_deadline(), Some(s(410)));
    assert_eq!(watchdog.next_order(s(409)), None);
    assert!(watchdog.may_stroke(s(409)));
    assert_eq!(watchdog.next_order(s(410)), Some(Order::Reboot(Vital::Kubelet)));
    assert_eq!((watchdog.next_order(s(999)), watchdog.next_deadline()), (None, None));
    assert!(watchdog.may_stroke(s(499)) && !watchdog.may_stroke(s(500)), "an orderly end has its time, and no more");
}

#[test]
fn a_vital_that_comes_back_has_all_its_time_again() {
    let mut watchdog = watchdog();
    report_all(&mut watchdog, true, s(20));
    for round in 0..5 {
        let lost = s(1000 + 1000 * round);
        watchdog.report(Vital::Containerd, false, lost);
        assert_eq!(watchdog.next_order(lost + s(180)), Some(Order::RestartGroup(Vital::Containerd)));
        watchdog.report(Vital::Containerd, true, lost + s(300));
        assert!(watchdog.next_order(lost + s(400)).is_none_or(|order| order == Order::Confirm));
    }
}

#[test]
fn a_disk_that_cannot_be_written_has_no_service_to_restart() {
    let mut watchdog = watchdog();
    report_all(&mut watchdog, true, s(20));
    watchdog.report(Vital::Data, false, s(100));
    assert_eq!(watchdog.next_order(s(280)), Some(Order::Reboot(Vital::Data)));
}

#[test]
fn what_never_holds_is_not_waited_for_for_ever() {
    let mut watchdog = watchdog();
    for vital in [Vital::Data, Vital::Agent, Vital::Containerd] {
        watchdog.report(vital, true, s(20));
    }
    assert_eq!(watchdog.next_order(s(609)), None);
    assert_eq!(watchdog.next_order(s(610)), Some(Order::RestartGroup(Vital::Kubelet)));
    assert_eq!(watchdog.next_order(s(790)), Some(Order::Reboot(Vital::Kubelet)));
}

#[test]
fn golden_has_fewer_vitals() {
    let mut watchdog = Watchdog::new(&Vital::GOLDEN, TIMES, s(0));
    watchdog.report(Vital::Kubelet, false, s(1));
    watchdog.report(Vital::Data, true, s(1));
    watchdog.report(Vital::Agent, true, s(2));
    assert_eq!(watchdog.next_order(s(62)), Some(Order::Confirm));
}

#[test]
fn an_end_that_somebody_else_begins_has_its_time_too() {
    let mut watchdog = watchdog();
    watchdog.end(s(100));
    watchdog.end(s(150));
    assert!(watchdog.may_stroke(s(189)) && !watchdog.may_stroke(s(190)));
    assert_eq!((watchdog.next_order(s(9999)), watchdog.next_deadline()), (None, None));
}

#[test]
fn each_vital_names_its_service() {
    assert_eq!(Vital::ALL.map(Vital::service), [None, Some("agent"), Some("containerd"), Some("kubelet")]);
    assert_eq!(Vital::ALL.map(|vital| vital.to_string()), ["data", "agent", "containerd", "kubelet"]);
}

/// Whatever is reported: strokes go on until an end begins, an end is always ordered when a vital stays lost, and a slot
/// is confirmed only if all vitals held for as long as they must.
#[test]
fn at_random() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let mut watchdog = watchdog();
        let (mut now, mut ended, mut confirmed) = (s(10), None, false);
        let mut held_since = [None; 4];
        let mut lost_since = [Some((now, TIMES.first)); 4];
        for _ in 0..300 {
            now += random.millis(1, 40_000);
            let vital = random.index(4);
            let holds = random.percent(if seed % 2 == 0 { 70 } else { 97 });
            watchdog.report(Vital::ALL[vital], holds, now);
            held_since[vital] = if holds { held_since[vital].or(Some(now)) } else { None };
            let patience = lost_since[vital].unwrap_or((now, TIMES.again));
            lost_since[vital] = (!holds).then_some(patience);
            while let Some(order) = watchdog.next_order(now) {
                assert_eq!(ended, None, "seed {seed}: {order:?} after an end");
                match order {
                    Order::Confirm => {
                        assert!(!confirmed);
                        confirmed = true;
                        assert!(held_since.iter().all(|since| since.is_some_and(|since| now - since >= TIMES.confirm)));
                    }
                    Order::RestartGroup(vital) | Order::Reboot(vital) => {
                        let (since, patience) = lost_since[vital as usize].unwrap();
                        assert!(now - since >= patience, "seed {seed}: {order:?} too soon");
                        if matches!(order, Order::Reboot(_)) {
                            ended = Some(now);
                        }
                    }
                }
            }
            assert_eq!(watchdog.may_stroke(now), ended.is_none_or(|since| now < since + TIMES.end));
            if ended.is_none() {
                assert!(watchdog.next_deadline().is_none_or(|deadline| deadline > now), "seed {seed}: overdue");
            }
        }
    }
}

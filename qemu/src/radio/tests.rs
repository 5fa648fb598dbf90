//! The model by simulated time.

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn radio(link: &str) -> Radio {
    Radio::new(&link.parse().unwrap())
}

fn up(radio: &mut Radio, now: Duration, bytes: usize) -> Verdict {
    radio.frame(now, bytes, Direction::Uplink)
}

/// When it arrives, if it does.
fn at(verdict: Verdict) -> Option<Duration> {
    match verdict {
        Verdict::Deliver(flight) => Some(flight.at),
        Verdict::Pass | Verdict::Drop(_) => None,
    }
}

#[test]
fn the_rate_is_kept_within_a_hundredth_whatever_is_sent() {
    for (link, rate) in [("rate=64k", 64e3), ("rate=9600", 9600.0), ("rate=1M,speed=20", 20e6)] {
        let mut radio = radio(link);
        let mut on_way = std::collections::VecDeque::new();
        let mut arrived = 0;
        // Twice as much as fits, for 100 s, in frames of all sizes.
        let mut random = Random::new(3);
        let (mut now, end) = (Duration::ZERO, 100 * S);
        while now < end {
            let bytes = 60 + random.below(1455) as usize;
            if let Verdict::Deliver(flight) = up(&mut radio, now, bytes) {
                on_way.push_back((flight, bytes));
            }
            now += Duration::from_secs_f64(bytes as f64 * 8.0 / rate / 2.0);
            while let Some((flight, bytes)) = on_way.pop_front_if(|(flight, _)| flight.at <= now) {
                assert!(radio.arrive(flight));
                arrived += bytes;
            }
        }
        let share = arrived as f64 * 8.0 / (rate * now.as_secs_f64());
        assert!((0.99..=1.0).contains(&share), "{link}: {share}");
    }
}

#[test]
fn a_quiet_link_carries_a_frame_at_once_and_in_its_own_time() {
    let mut radio = radio("rate=64k,delay=250ms");
    assert_eq!(at(up(&mut radio, S, 800)), Some(S + 100 * MS + 250 * MS));
    assert_eq!(at(up(&mut radio, S, 800)), Some(S + 200 * MS + 250 * MS));
    assert_eq!(at(up(&mut radio, 5 * S, 800)), Some(5 * S + 350 * MS));
    // The other way is not held up.
    assert_eq!(at(radio.frame(S, 800, Direction::Downlink)), Some(S + 350 * MS));
}

#[test]
fn losses_are_as_many_as_said_and_a_seed_repeats_them() {
    let row = |link: &str| -> Vec<bool> {
        let mut radio = radio(link);
        (0..20_000).map(|_| up(&mut radio, S, 100) == Verdict::Drop(Reason::Lost)).collect()
    };
    let lost = row("loss=5%,seed=7");
    let count = lost.iter().filter(|lost| **lost).count();
    assert!((900..=1100).contains(&count), "{count} of 20000");
    assert_eq!(lost, row("loss=5%,seed=7"));
    assert_ne!(lost, row("loss=5%,seed=8"));
    assert!(!row("loss=0%").contains(&true) && !row("loss=100%").contains(&false));
}

#[test]
fn what_is_lost_one_way_does_not_depend_on_the_other() {
    let row = |both: bool| -> Vec<bool> {
        let mut radio = radio("loss=50%");
        let frame = |_| {
            if both {
                radio.frame(S, 100, Direction::Downlink);
            }
            at(up(&mut radio, S, 100)).is_some()
        };
        (0..100).map(frame).collect()
    };
    assert_eq!(row(false), row(true));
}

#[test]
fn passes_begin_with_up_and_come_again() {
    let mut radio = radio("window=8m/96m,speed=20");
    for (now, is_up) in
        [(0, true), (23_999, true), (24_000, false), (287_999, false), (288_000, true), (312_000, false)]
    {
        assert_eq!(radio.is_up(now * MS), is_up, "{now} ms");
        assert_eq!(at(up(&mut radio, now * MS, 60)).is_some(), is_up, "{now} ms");
    }
    assert_eq!(radio.counters().uplink.down.frames, 3);
}

#[test]
fn a_frame_that_does_not_fit_into_the_pass_is_dropped_and_the_next_pass_begins_empty() {
    // 1000 bytes take 1 s.
    let mut radio = radio("rate=8k,window=10s/100s");
    assert_eq!(at(up(&mut radio, 9 * S, 1000)), Some(10 * S));
    assert_eq!(up(&mut radio, 9 * S, 1), Verdict::Drop(Reason::Down));
    assert_eq!(at(up(&mut radio, 100 * S, 1000)), Some(101 * S));
    // What has left arrives, though the pass has ended by then.
    let mut far = self::radio("window=10s/100s,delay=1s");
    assert_eq!(at(up(&mut far, 9900 * MS, 1000)), Some(10_900 * MS));
}

#[test]
fn the_queue_is_bounded_by_bytes_and_drops_the_newest() {
    for (link, bound) in [("rate=64k", 65_536), ("rate=64k,speed=20", 65_536), ("rate=8M", 2_000_000)] {
        let mut radio = radio(link);
        let taken = (0..10_000).take_while(|_| at(up(&mut radio, S, 1000)).is_some()).count();
        assert_eq!(taken, bound / 1000, "{link}");
        assert_eq!(up(&mut radio, S, 1000), Verdict::Drop(Reason::QueueFull));
        // In the time of one frame there is room for one.
        let later = S + air_time(1000, radio.link.rate_bps.unwrap());
        assert!(at(up(&mut radio, later, 1000)).is_some());
        assert_eq!(up(&mut radio, later, 1000), Verdict::Drop(Reason::QueueFull));
        assert_eq!(radio.counters().uplink.queue_full.frames, 3);
    }
}

#[test]
fn without_a_rate_the_frames_in_the_air_are_bounded() {
    let mut radio = radio("delay=1h");
    let Verdict::Deliver(first) = up(&mut radio, S, 60) else { panic!("the link is up") };
    for _ in 1..MAX_FLIGHTS {
        assert!(at(up(&mut radio, S, 60)).is_some());
    }
    assert_eq!(up(&mut radio, S, 60), Verdict::Drop(Reason::QueueFull));
    assert!(radio.arrive(first));
    assert!(at(up(&mut radio, S, 60)).is_some());
}

#[test]
fn a_cut_takes_what_is_on_its_way_and_a_restored_link_begins_with_a_pass() {
    let mut radio = radio("rate=8k,window=10s/100s");
    let Verdict::Deliver(flight) = up(&mut radio, S, 1000) else { panic!("the link is up") };
    radio.cut();
    assert!(!radio.arrive(flight));
    assert_eq!(up(&mut radio, S, 60), Verdict::Drop(Reason::Down));
    radio.restore(50 * S);
    assert_eq!(at(up(&mut radio, 50 * S, 1000)), Some(51 * S));
    assert!(radio.is_up(59 * S) && !radio.is_up(60 * S) && radio.is_up(150 * S));
}

#[test]
fn an_open_link_is_none() {
    let mut radio = radio("rate=8k,loss=100%,window=10s/100s");
    radio.open();
    assert!(radio.is_up(50 * S));
    assert_eq!(up(&mut radio, 50 * S, 60_000), Verdict::Pass);
    assert_eq!(radio.counters(), Counters::default());
    radio.restore(50 * S);
    assert_eq!(up(&mut radio, 50 * S, 60), Verdict::Drop(Reason::Lost));
}

#[test]
fn every_frame_is_counted_once() {
    let mut radio = radio("rate=64k,loss=30%,window=5s/10s");
    for i in 0..1000 {
        if let Verdict::Deliver(flight) = up(&mut radio, 20 * i * MS, 500) {
            radio.arrive(flight);
        }
    }
    let Traffic { sent, delivered, lost, down, queue_full } = radio.counters().uplink;
    for amount in [delivered, lost, down] {
        assert!(amount.frames > 0 && amount.bytes == 500 * amount.frames, "{amount:?}");
    }
    assert_eq!(sent.frames, 1000);
    assert_eq!(sent.frames, delivered.frames + lost.frames + down.frames + queue_full.frames);
    assert_eq!(radio.counters().downlink, Traffic::default());
}

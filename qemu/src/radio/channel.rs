//! A radio link that runs: frames wait until the model says that they are there.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Counters, Direction, Flight, Link, Radio, Verdict};

/// A running link, to be watched and switched from any thread.
#[derive(Debug)]
pub struct Channel {
    began: Instant,
    radio: Mutex<Radio>,
}

impl Channel {
    /// A link whose first pass begins now.
    pub fn new(link: &Link) -> Self {
        Self { began: Instant::now(), radio: Mutex::new(Radio::new(link)) }
    }

    /// What was carried so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters()
    }

    /// Whether frames pass now.
    pub fn is_up(&self) -> bool {
        self.lock().is_up(self.now())
    }

    /// Nothing passes from now on; what is on its way is lost.
    pub fn cut(&self) {
        self.lock().cut();
    }

    /// The link as its parameters say from now on, beginning with a pass.
    pub fn restore(&self) {
        self.lock().restore(self.now());
    }

    /// Everything passes at once from now on, as if there were no radio; it is not counted.
    pub fn open(&self) {
        self.lock().open();
    }

    /// Carries `frames` in `direction` to `deliver`, until there are no more and the last one is there.
    pub(crate) fn carry(
        &self,
        direction: Direction,
        frames: &Receiver<Arc<[u8]>>,
        mut deliver: impl FnMut(&Arc<[u8]>),
    ) {
        let mut flights = VecDeque::new();
        loop {
            let next = match flights.front() {
                None => frames.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((flight, _)) => frames.recv_timeout(self.until(*flight)),
            };
            match next {
                Ok(frame) => {
                    let verdict = self.lock().frame(self.now(), frame.len(), direction);
                    match verdict {
                        Verdict::Pass => deliver(&frame),
                        Verdict::Deliver(flight) => flights.push_back((flight, frame)),
                        Verdict::Drop(_) => {}
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => match flights.front() {
                    None => return,
                    Some((flight, _)) => std::thread::sleep(self.until(*flight)),
                },
            }
            while let Some((flight, frame)) = flights.pop_front_if(|(flight, _)| flight.at <= self.now()) {
                if self.lock().arrive(flight) {
                    deliver(&frame);
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn until(&self, flight: Flight) -> Duration {
        flight.at.saturating_sub(self.now())
    }

    fn lock(&self) -> MutexGuard<'_, Radio> {
        self.radio.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    type Frame = Arc<[u8]>;

    /// A link with both its ends: what goes in, and what comes out with its time.
    fn ends(link: &str) -> (Arc<Channel>, Sender<Frame>, Receiver<(Instant, Frame)>) {
        let air = Arc::new(Channel::new(&link.parse().unwrap()));
        let (ground, sent) = channel();
        let (arrived, node) = channel();
        let carrier = air.clone();
        thread::spawn(move || {
            carrier.carry(Direction::Uplink, &sent, |frame| arrived.send((Instant::now(), frame.clone())).unwrap());
        });
        (air, ground, node)
    }

    #[test]
    fn frames_arrive_in_order_not_before_their_time_and_all_of_them() {
        let (air, ground, node) = ends("rate=80k,delay=100ms,speed=2");
        let began = Instant::now();
        for i in 0..20 {
            ground.send(vec![i; 1000].into()).unwrap();
        }
        drop(ground);
        for i in 0..20 {
            let (at, frame) = node.recv_timeout(PATIENCE).unwrap();
            assert_eq!(*frame, [i; 1000]);
            let least = Duration::from_millis(50 * (u64::from(i) + 1) + 50);
            assert!(at - began >= least, "frame {i} after {:?}, not before {least:?}", at - began);
        }
        assert!(node.recv_timeout(PATIENCE).is_err(), "there were 20");
        assert_eq!(air.counters().uplink.delivered.frames, 20);
    }

    #[test]
    fn what_waits_when_the_link_is_cut_is_lost_and_what_comes_after_it_is_restored_arrives() {
        let (air, ground, node) = ends("delay=1h,speed=3600");
        ground.send([1; 60].into()).unwrap();
        while air.counters().uplink.sent.frames == 0 {
            thread::yield_now();
        }
        assert!(air.is_up());
        air.cut();
        assert!(!air.is_up());
        air.restore();
        ground.send([2; 60].into()).unwrap();
        let (_, frame) = node.recv_timeout(PATIENCE).unwrap();
        assert_eq!(frame[0], 2);
        let traffic = air.counters().uplink;
        assert_eq!((traffic.delivered.frames, traffic.down.frames), (1, 1));
    }
}

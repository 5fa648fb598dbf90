//! An Ethernet switch for machines: each has a port and gets what is for it, as on a board's backplane.
//!
//! QEMU itself has a hub only. There its user-mode network hears what one machine says to another, takes it for a
//! connection to the world that it is to forbid, and refuses it in the other's name.
//!
//! Ports speak QEMU's `-netdev stream` (net/stream.c): each frame follows its length, 4 bytes, big-endian. One of them may
//! be behind a radio link.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::radio::{Channel, Direction};

/// Longest frame that QEMU sends (`NET_BUFSIZE`, include/net/net.h).
const MAX_FRAME_BYTES: usize = 4096 + 65536;
/// Frames that wait for a port. More are dropped, as switches do: a paused machine must not hold up the others.
const QUEUE_FRAMES: usize = 512;

type Mac = [u8; 6];
type Frame = Arc<[u8]>;

/// A port that is to be.
#[derive(Debug)]
pub struct Port {
    /// Where to plug in; must not exist yet.
    pub socket: PathBuf,
    /// The radio link that the port's machine is behind: it is the ground.
    pub radio: Option<Arc<Channel>>,
}

/// A running switch; its ports close when it is dropped.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ports: Vec<Port>,
    ending: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// What is plugged in, by port.
    plugs: Vec<Option<Plug>>,
}

#[derive(Debug)]
struct Plug {
    frames: SyncSender<Frame>,
    stream: UnixStream,
}

impl Switch {
    /// Starts a switch with `ports`.
    pub fn start(ports: Vec<Port>) -> Result<Self> {
        let plugs = ports.iter().map(|_| None).collect();
        let state = Mutex::new(State { table: Table::default(), plugs });
        let shared = Arc::new(Shared { ports, ending: AtomicBool::new(false), state });
        for (port, Port { socket, .. }) in shared.ports.iter().enumerate() {
            let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
            let shared = shared.clone();
            thread::spawn(move || shared.serve(port, &listener));
        }
        Ok(Self { shared })
    }

    /// The socket of one port.
    pub fn port(&self, port: usize) -> &Path {
        &self.shared.ports[port].socket
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        for plug in self.shared.lock().plugs.iter().flatten() {
            // Its machine may be gone already.
            let _ = plug.stream.shutdown(Shutdown::Both);
        }
        for Port { socket, .. } in &self.shared.ports {
            // Wakes who waits for a machine; without one the port has ended already.
            let _ = UnixStream::connect(socket);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One machine after the other: one that was switched off comes back as a new connection.
    fn serve(self: &Arc<Self>, port: usize, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            // A connection that breaks is the next one's beginning.
            let _ = self.listen(port, stream);
            self.lock().plugs[port] = None;
        }
    }

    /// Forwards what comes from one machine until its connection ends.
    fn listen(self: &Arc<Self>, port: usize, stream: UnixStream) -> io::Result<()> {
        let mut frames = BufReader::new(stream.try_clone()?);
        self.plug_in(port, stream)?;
        let Some(radio) = self.ports[port].radio.clone() else {
            loop {
                self.forward(port, &read_frame(&mut frames)?);
            }
        };
        let shared = self.clone();
        let (uplink, queue) = sync_channel(QUEUE_FRAMES);
        thread::spawn(move || radio.carry(Direction::Uplink, &queue, |frame| shared.forward(port, frame)));
        // The carrier ends after us.
        while uplink.send(read_frame(&mut frames)?).is_ok() {}
        Ok(())
    }

    fn plug_in(&self, port: usize, stream: UnixStream) -> io::Result<()> {
        let mut writes = stream.try_clone()?;
        let (frames, queue) = sync_channel(QUEUE_FRAMES);
        match self.ports[port].radio.clone() {
            None => thread::spawn(move || write_frames(writes, &queue)),
            Some(radio) => thread::spawn(move || {
                // A machine that is just ending misses it.
                radio.carry(Direction::Downlink, &queue, |frame| drop(write_frame(&mut writes, frame)));
            }),
        };
        self.lock().plugs[port] = Some(Plug { frames, stream });
        Ok(())
    }

    fn forward(&self, from: usize, frame: &Frame) {
        let mut state = self.lock();
        let to = state.table.learn(from, frame);
        for (port, plug) in state.plugs.iter().enumerate() {
            if let Some(plug) = plug
                && to.reaches(port, from)
            {
                // Full, or its machine is just ending: dropped.
                let _ = plug.frames.try_send(frame.clone());
            }
        }
    }
}

/// Ends with the port's queue or with the connection.
fn write_frames(mut stream: UnixStream, queue: &Receiver<Frame>) {
    for frame in queue {
        if write_frame(&mut stream, &frame).is_err() {
            return;
        }
    }
}

pub(crate) fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), frame].concat())
}

pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes, expected at most {MAX_FRAME_BYTES}")));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame.into())
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Port(usize),
    /// To all but where it came from: a group's, or for someone who has not spoken yet.
    Others,
    Nobody,
}

impl To {
    fn reaches(self, port: usize, from: usize) -> bool {
        port != from
            && match self {
                Self::Port(to) => to == port,
                Self::Others => true,
                Self::Nobody => false,
            }
    }
}

/// At which port each address was heard last (IEEE 802.1D, 7.8, without ageing: a machine that moves speaks).
#[derive(Debug, Default)]
struct Table {
    ports: HashMap<Mac, usize>,
}

impl Table {
    /// Learns from a frame's source, and tells where its destination is.
    fn learn(&mut self, from: usize, frame: &[u8]) -> To {
        let Some((destination, rest)) = frame.split_first_chunk::<6>() else { return To::Nobody };
        let Some(source) = rest.first_chunk::<6>() else { return To::Nobody };
        if !is_group(source) {
            self.ports.insert(*source, from);
        }
        match self.ports.get(destination) {
            _ if is_group(destination) => To::Others,
            Some(port) => To::Port(*port),
            None => To::Others,
        }
    }
}

/// Broadcast or multicast: the first byte's lowest bit.
fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::machine::Files;

    const PATIENCE: Duration = Duration::from_secs(20);
    const ALL: Mac = [0xff; 6];
    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    fn frame(to: Mac, from: Mac, text: &str) -> Vec<u8> {
        [&to[..], &from[..], text.as_bytes()].concat()
    }

    #[test]
    fn what_is_for_one_goes_to_one_once_it_has_spoken() {
        let mut table = Table::default();
        assert_eq!(table.learn(0, &frame(TWO, ONE, "?")), To::Others);
        assert_eq!(table.learn(1, &frame(ONE, TWO, "!")), To::Port(0));
        assert_eq!(table.learn(0, &frame(TWO, ONE, "?")), To::Port(1));
        assert_eq!(table.learn(0, &frame(ALL, ONE, "who?")), To::Others);
        assert_eq!(table.learn(2, &frame(ONE, TWO, "moved")), To::Port(0));
        assert_eq!(table.learn(0, &frame(TWO, ONE, "?")), To::Port(2));
        assert!(!To::Others.reaches(0, 0) && !To::Port(0).reaches(0, 0));
    }

    #[test]
    fn a_frame_without_both_addresses_goes_nowhere() {
        for length in 0..12 {
            assert_eq!(Table::default().learn(0, &frame(TWO, ONE, "")[..length]), To::Nobody);
        }
    }

    #[test]
    fn a_frame_that_is_longer_than_any_ends_the_connection() {
        assert!(read_frame(&mut &u32::MAX.to_be_bytes()[..]).is_err());
        assert!(read_frame(&mut &[0, 0, 0, 2, 7][..]).is_err());
        assert_eq!(*read_frame(&mut &[0, 0, 0, 2, 7, 8][..]).unwrap(), [7, 8]);
    }

    #[test]
    fn machines_come_and_go_and_a_third_does_not_hear_what_two_say() {
        let files = Files::new().unwrap();
        let port = |port| Port { socket: files.path(format!("port-{port}")), radio: None };
        let switch = Switch::start((0..3).map(port).collect()).unwrap();
        let plug = |port| {
            let stream = UnixStream::connect(switch.port(port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let say = |mut stream: &UnixStream, frame: &[u8]| write_frame(&mut stream, frame).unwrap();
        let until = |so: &dyn Fn(&State) -> bool| {
            let deadline = Instant::now() + PATIENCE;
            while !so(&switch.shared.lock()) {
                assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
                thread::yield_now();
            }
        };
        let (mut one, mut two, mut three) = (plug(0), plug(1), plug(2));
        until(&|state| state.plugs.iter().all(Option::is_some));
        // What one says to itself, nobody hears but the switch.
        for (stream, mac) in [(&one, ONE), (&two, TWO)] {
            say(stream, &frame(mac, mac, "hello"));
            until(&|state| state.table.ports.contains_key(&mac));
        }
        say(&one, &frame(TWO, ONE, "secret"));
        assert_eq!(*read_frame(&mut two).unwrap(), *frame(TWO, ONE, "secret"));
        say(&two, &frame(ALL, TWO, "all"));
        assert_eq!(*read_frame(&mut three).unwrap(), *frame(ALL, TWO, "all"), "three heard what was not for it");

        drop(one);
        until(&|state| state.plugs[0].is_none());
        one = plug(0);
        until(&|state| state.plugs[0].is_some());
        say(&two, &frame(ONE, TWO, "again"));
        assert_eq!(*read_frame(&mut one).unwrap(), *frame(ONE, TWO, "again"));
    }
}

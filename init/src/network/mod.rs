//! The network, by rtnetlink: the plan's steps are taken for each link as soon as the kernel reports it, at boot or
//! years later. Requests and answers go through the loop; nothing waits for a card or its carrier.

mod plan;
mod wire;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use perigee_core::control::Link as LinkStatus;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use crate::config::Config;
use crate::logs::Logs;
use crate::sys;
use plan::{LinkPlan, Step};
use wire::Answer;

/// Multicast group of link changes (RTMGRP_LINK).
const LINK_GROUP: u32 = 1;
/// The kernel's messages are at most this long (NLMSG_GOODSIZE).
const LONGEST: usize = 8192;
/// A refused step is tried again after this long, then twice as long, up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The links of the plan and how far each is.
pub struct Network {
    socket: OwnedFd,
    links: Vec<Link>,
    sequence: u32,
    /// Requests under way: the link's place, and the step or, for none, its making.
    pending: BTreeMap<u32, (usize, Option<Step>)>,
    retry: Option<Duration>,
    retry_after: Duration,
}

struct Link {
    plan: LinkPlan,
    index: Option<u32>,
    carrier: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its steps have not been asked for, or one was refused.
    Open,
    /// This many answers are still to come.
    Asked(usize),
    /// All steps are taken.
    Configured,
}

impl Network {
    /// Asks the kernel for its links; the rest follows from its answers.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(config: Option<&Config>) -> Result<Self, Errno> {
        let plans = config.map_or_else(plan::loopback, |config| plan::plan(&config.mission, &config.node));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is protocol 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        let link = |plan| Link { plan, index: None, carrier: false, state: State::Open };
        let mut network = Self {
            socket,
            links: plans.into_iter().map(link).collect(),
            sequence: 0,
            pending: BTreeMap::new(),
            retry: None,
            retry_after: RETRY_MIN,
        };
        for place in 0..network.links.len() {
            network.make(place);
        }
        network.look();
        Ok(network)
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.retry
    }

    /// Tries again what was refused.
    pub fn tick(&mut self, now: Duration) {
        if self.retry.is_some_and(|retry| now >= retry) {
            self.retry = None;
            self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
            for place in 0..self.links.len() {
                self.make(place);
                self.configure(place);
            }
        }
    }

    /// Takes one read of the kernel's answers.
    pub fn readable(&mut self, now: Duration, logs: &mut Logs) {
        let mut bytes = [0; LONGEST];
        match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                for answer in wire::parse(&bytes[..length]) {
                    self.take(now, answer, logs);
                }
            }
            Err(Errno::NOBUFS) => self.start_over(),
            Err(_) => {}
        }
    }

    /// For the node's status.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.links
            .iter()
            .map(|link| LinkStatus {
                name: link.plan.name.clone(),
                carrier: link.carrier,
                configured: link.state == State::Configured,
            })
            .collect()
    }

    fn take(&mut self, now: Duration, answer: Answer, logs: &mut Logs) {
        match answer {
            Answer::Link { index, name, up, carrier } => {
                let Some(place) = self.links.iter().position(|link| link.plan.name == name) else { return };
                let link = &mut self.links[place];
                let fresh = link.index.replace(index) != Some(index);
                let changed = std::mem::replace(&mut link.carrier, carrier) != carrier;
                if changed {
                    logs.event(format_args!("link={name} carrier={}", if carrier { "up" } else { "down" }));
                }
                // The kernel forgets the routes of a link that is switched off.
                if fresh || (link.state == State::Configured && !up) {
                    link.state = State::Open;
                    self.configure(place);
                    // Those that join it may have been there first.
                    for other in 0..self.links.len() {
                        self.configure(other);
                    }
                }
            }
            Answer::Gone { index } => {
                if let Some(link) = self.links.iter_mut().find(|link| link.index == Some(index)) {
                    logs.event(format_args!("link={} state=gone", link.plan.name));
                    (link.index, link.carrier, link.state) = (None, false, State::Open);
                }
            }
            Answer::Done { sequence, result } => {
                let Some((place, step)) = self.pending.remove(&sequence) else { return };
                let link = &mut self.links[place];
                match (result, link.state) {
                    (Err(error), _) => {
                        link.state = State::Open;
                        self.retry.get_or_insert(now + self.retry_after);
                        let name = &link.plan.name;
                        match step {
                            Some(step) => logs.event(format_args!("link={name} step=\"{step:?}\" error=\"{error}\"")),
                            None => logs.event(format_args!("link={name} step=make error=\"{error}\"")),
                        }
                    }
                    (Ok(()), State::Asked(1)) if step.is_some() => {
                        link.state = State::Configured;
                        self.retry_after = RETRY_MIN;
                        logs.event(format_args!("link={} state=configured", link.plan.name));
                    }
                    (Ok(()), State::Asked(left)) if step.is_some() => link.state = State::Asked(left - 1),
                    (Ok(()), _) => {}
                }
            }
        }
    }

    /// Answers were lost in a burst: asks again for what was under way, and for the whole picture.
    fn start_over(&mut self) {
        self.pending.clear();
        for place in 0..self.links.len() {
            let link = &mut self.links[place];
            if let State::Asked(_) = link.state {
                link.state = State::Open;
            }
            self.configure(place);
        }
        self.look();
    }

    fn look(&mut self) {
        let sequence = self.next();
        self.send(&wire::get_links(sequence));
    }

    /// Makes a link that the kernel does not bring, unless it is there.
    fn make(&mut self, place: usize) {
        let link = &self.links[place];
        if link.plan.made && link.index.is_none() {
            let name = link.plan.name.clone();
            let sequence = self.next();
            if self.send(&wire::make_bond(sequence, &name)) {
                self.pending.insert(sequence, (place, None));
            }
        }
    }

    /// Asks for all steps of a link that is there and open.
    fn configure(&mut self, place: usize) {
        let link = &self.links[place];
        let Some(index) = link.index.filter(|_| link.state == State::Open) else { return };
        let steps = link.plan.steps.clone();
        let mut requests = Vec::with_capacity(steps.len());
        for step in &steps {
            let sequence = self.next();
            let request = match step {
                Step::Up => wire::set_up(sequence, index, true),
                Step::Down => wire::set_up(sequence, index, false),
                Step::Address(address) => wire::add_address(sequence, index, *address),
                Step::Route { to, via } => wire::add_route(sequence, index, *to, *via),
                Step::Join(name) => {
                    let master = self.links.iter().find(|link| link.plan.name == *name).and_then(|link| link.index);
                    // Not there yet: all of this is asked again when it is.
                    let Some(master) = master else { return };
                    wire::set_master(sequence, index, master)
                }
            };
            requests.push((sequence, request));
        }
        self.links[place].state = State::Asked(steps.len());
        for ((sequence, request), step) in requests.into_iter().zip(steps) {
            if !self.send(&request) {
                self.links[place].state = State::Open;
                return;
            }
            self.pending.insert(sequence, (place, Some(step)));
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The kernel takes a request within the call, and refuses by an answer. A full buffer would mean that answers wait
    /// to be read: the retry comes after them.
    fn send(&mut self, request: &[u8]) -> bool {
        let sent = send(&self.socket, request, SendFlags::DONTWAIT).is_ok();
        if !sent {
            self.retry.get_or_insert(sys::now() + self.retry_after);
        }
        sent
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

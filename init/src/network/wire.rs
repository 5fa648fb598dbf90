//! The five messages of rtnetlink(7) that a static network needs, and the two answers. Host byte order, except for
//! addresses; every header and attribute begins at a multiple of four bytes.
//!
//! | message | bytes |
//! |---|---|
//! | any | length u32, type u16, flags u16, sequence u32, port u32, then: |
//! | link | family u8, pad u8, type u16, index i32, flags u32, mask of flags u32, attributes |
//! | address | family u8, prefix u8, flags u8, scope u8, index u32, attributes |
//! | route | family, destination and source prefix, tos, table, protocol, scope, type: u8 each; flags u32, attributes |
//! | error | errno i32 (0: acknowledged, negative: refused), the message that it is about |
//! | attribute | length u16 (with these 4 bytes), type u16, data |
//!
//! Written out here because netlink-packet-route parses every attribute of every link into its own type, and is some
//! hundred times as large as what is used.

use std::net::Ipv4Addr;

use perigee_core::mission::Range;
use rustix::io::Errno;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

const INET: u8 = 2;
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const ACTIVE_BACKUP: u8 = 1;
/// How often a bond looks at its links, milliseconds: the documentation's value (networking/bonding.rst).
const MIIMON_MS: u32 = 100;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const TYPE_UNICAST: u8 = 1;

/// A message being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        Self(bytes)
    }

    fn link(kind: u16, flags: u16, sequence: u32, index: u32, up: Option<bool>) -> Self {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        if let Some(up) = up {
            body[8..12].copy_from_slice(&(if up { IFF_UP } else { 0 }).to_ne_bytes());
            body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        }
        Self::new(kind, flags, sequence, &body)
    }

    fn attribute(self, kind: u16, data: &[u8]) -> Self {
        self.nested(kind, |mut message| {
            message.0.extend(data);
            message
        })
    }

    fn nested(mut self, kind: u16, content: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        let mut message = content(self);
        // A message here is at most a hundred bytes long.
        let length = (message.0.len() - begin) as u16;
        message.0[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        message.0.resize(message.0.len().next_multiple_of(4), 0);
        message
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Asks for all links.
pub fn get_links(sequence: u32) -> Vec<u8> {
    Message::link(GET_LINK, DUMP, sequence, 0, None).finish()
}

/// Makes an active-backup bond, or turns one that nothing has joined yet into that.
pub fn make_bond(sequence: u32, name: &str) -> Vec<u8> {
    Message::link(NEW_LINK, ACK | CREATE, sequence, 0, None)
        .attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
        .nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, b"bond").nested(IFLA_INFO_DATA, |data| {
                data.attribute(IFLA_BOND_MODE, &[ACTIVE_BACKUP]).attribute(IFLA_BOND_MIIMON, &MIIMON_MS.to_ne_bytes())
            })
        })
        .finish()
}

/// Switches a link on or off.
pub fn set_up(sequence: u32, index: u32, up: bool) -> Vec<u8> {
    Message::link(SET_LINK, ACK, sequence, index, Some(up)).finish()
}

/// Makes a link part of another.
pub fn set_master(sequence: u32, index: u32, master: u32) -> Vec<u8> {
    Message::link(SET_LINK, ACK, sequence, index, None).attribute(IFLA_MASTER, &master.to_ne_bytes()).finish()
}

/// Gives a link an address.
pub fn add_address(sequence: u32, index: u32, address: Range) -> Vec<u8> {
    let mut body = [INET, address.prefix, 0, SCOPE_UNIVERSE, 0, 0, 0, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    Message::new(NEW_ADDRESS, ACK | CREATE | REPLACE, sequence, &body)
        .attribute(IFA_LOCAL, &address.address.octets())
        .attribute(IFA_ADDRESS, &address.address.octets())
        .finish()
}

/// Sends what is for `to` out of a link through `via`.
pub fn add_route(sequence: u32, index: u32, to: Range, via: Ipv4Addr) -> Vec<u8> {
    let body = [INET, to.prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, SCOPE_UNIVERSE, TYPE_UNICAST, 0, 0, 0, 0];
    Message::new(NEW_ROUTE, ACK | CREATE | REPLACE, sequence, &body)
        .attribute(RTA_DST, &to.address.octets())
        .attribute(RTA_GATEWAY, &via.octets())
        .attribute(RTA_OIF, &index.to_ne_bytes())
        .finish()
}

/// What the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A link is there, or has changed.
    Link {
        /// The kernel's number for it.
        index: u32,
        /// Its name.
        name: String,
        /// Whether it is switched on.
        up: bool,
        /// Whether it has a carrier.
        carrier: bool,
    },
    /// A link is gone.
    Gone {
        /// The number that it had.
        index: u32,
    },
    /// The request with this number was carried out, or refused.
    Done {
        /// The request's number.
        sequence: u32,
        /// Why it was refused.
        result: Result<(), Errno>,
    },
}

/// The answers in what one read brought. Any bytes: what is not understood is passed over.
pub fn parse(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((kind, sequence, body, rest)) = split_message(bytes) {
        answers.extend(answer(kind, sequence, body));
        bytes = rest;
    }
    answers
}

fn answer(kind: u16, sequence: u32, body: &[u8]) -> Option<Answer> {
    match kind {
        ERROR => {
            let code = word(body, 0)? as i32;
            let result = if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.saturating_neg())) };
            Some(Answer::Done { sequence, result })
        }
        NEW_LINK => {
            let (index, flags) = (word(body, 4)?, word(body, 8)?);
            let name = attribute(body.get(16..)?, IFLA_IFNAME)?;
            let name = str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name)).ok()?.to_owned();
            Some(Answer::Link { index, name, up: flags & IFF_UP != 0, carrier: flags & IFF_LOWER_UP != 0 })
        }
        DEL_LINK => Some(Answer::Gone { index: word(body, 4)? }),
        _ => None,
    }
}

/// Type, sequence number and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = word(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((half(bytes, 4)?, word(bytes, 8)?, body, rest))
}

/// The data of the first attribute of that type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(half(bytes, 0)?);
        let data = bytes.get(4..length)?;
        if half(bytes, 2)? == wanted {
            return Some(data);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// As `ip link set dev lo up` sends it (strace), the sequence number aside.
    #[test]
    fn switching_a_link_on_is_what_iproute2_sends() {
        let expected = [
            32, 0, 0, 0, 19, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, //
            0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(set_up(7, 1, true), expected);
    }

    #[test]
    fn a_route_has_its_destination_gateway_and_link() {
        let to = Range { address: [10, 42, 1, 0].into(), prefix: 24 };
        let expected = [
            52, 0, 0, 0, 24, 0, 5, 5, 1, 0, 0, 0, 0, 0, 0, 0, // header
            2, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, // route
            8, 0, 1, 0, 10, 42, 1, 0, // destination
            8, 0, 5, 0, 10, 0, 2, 16, // gateway
            8, 0, 4, 0, 2, 0, 0, 0, // link
        ];
        assert_eq!(add_route(1, 2, to, [10, 0, 2, 16].into()), expected);
    }

    #[test]
    fn a_bond_nests_its_kind_and_mode() {
        let expected = [
            76, 0, 0, 0, 16, 0, 5, 4, 1, 0, 0, 0, 0, 0, 0, 0, // header
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // link
            10, 0, 3, 0, b'b', b'o', b'n', b'd', b'0', 0, 0, 0, // name
            32, 0, 18, 0, 8, 0, 1, 0, b'b', b'o', b'n', b'd', // kind
            20, 0, 2, 0, 5, 0, 1, 0, 1, 0, 0, 0, 8, 0, 3, 0, 100, 0, 0, 0, // mode, miimon
        ];
        assert_eq!(make_bond(1, "bond0"), expected);
    }

    fn link_message() -> Vec<u8> {
        let mut message = Message::link(NEW_LINK, 0, 0, 2, Some(true))
            .attribute(1, &[1, 2, 3, 4, 5, 6])
            .attribute(IFLA_IFNAME, b"eth0\0")
            .finish();
        message[HEADER + 8..HEADER + 12].copy_from_slice(&(IFF_UP | IFF_LOWER_UP).to_ne_bytes());
        message
    }

    #[test]
    fn answers_are_read_one_after_the_other() {
        let refused = Message::new(ERROR, 0, 9, &(-17_i32).to_ne_bytes()).finish();
        let accepted = Message::new(ERROR, 0, 10, &0_i32.to_ne_bytes()).finish();
        let gone = Message::link(DEL_LINK, 0, 0, 3, None).finish();
        let bytes = [link_message(), refused, gone, accepted].concat();
        assert_eq!(
            parse(&bytes),
            [
                Answer::Link { index: 2, name: "eth0".into(), up: true, carrier: true },
                Answer::Done { sequence: 9, result: Err(Errno::EXIST) },
                Answer::Gone { index: 3 },
                Answer::Done { sequence: 10, result: Ok(()) },
            ]
        );
    }

    #[test]
    fn any_bytes_end_the_parser() {
        let whole = link_message();
        for length in 0..whole.len() {
            parse(&whole[..length]);
            for value in [0, 1, 3, 4, 255] {
                let mut damaged = whole.clone();
                damaged[length] = value;
                parse(&damaged);
            }
        }
        assert_eq!(parse(&[0; 64]), []);
    }
}

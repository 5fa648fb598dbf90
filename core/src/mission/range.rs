//! IPv4 addresses with a prefix length.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// An IPv4 address with a prefix length: `10.42.0.0/16` as a range, `10.0.2.15/24` as an address in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The address as written.
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub prefix: u8,
}

/// A text that is no address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an IPv4 address with a prefix length, such as 10.42.0.0/16")]
pub struct NotARange;

impl Range {
    /// The network that the address lies in: the same with all host bits zero.
    pub fn network(self) -> Self {
        Self { address: Ipv4Addr::from_bits(self.address.to_bits() & self.mask()), ..self }
    }

    /// The last address of the network.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// The address that many places after the network's first; wraps at the end of all addresses.
    pub fn nth(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network().address.to_bits().wrapping_add(place))
    }

    /// Whether the network has that address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().address.to_bits()
    }

    /// Whether the two networks share any address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// Whether the address can be a machine's: not the network's own and not its broadcast address. A network of two
    /// addresses (/31, RFC 3021) or one has neither.
    pub fn is_host(self) -> bool {
        self.prefix >= 31 || (self.address != self.network().address && self.address != self.last())
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (address, prefix) = text.split_once('/').ok_or(NotARange)?;
        // `+8` and `08` are numbers to `parse`, but no one writes a prefix so on purpose.
        if !prefix.bytes().all(|byte| byte.is_ascii_digit()) || (prefix.len() > 1 && prefix.starts_with('0')) {
            return Err(NotARange);
        }
        let prefix = prefix.parse().ok().filter(|&prefix| prefix <= 32).ok_or(NotARange)?;
        Ok(Self { address: address.parse().map_err(|_| NotARange)?, prefix })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn range(text: &str) -> Range {
        text.parse().expect("a range")
    }

    #[test]
    fn what_is_printed_is_what_was_written() {
        for text in ["10.42.0.0/16", "10.0.2.15/24", "0.0.0.0/0", "255.255.255.255/32"] {
            assert_eq!(range(text).to_string(), text);
        }
        for text in
            ["", "/", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0/8", "10.0.0.0/8/8", "::/0"]
        {
            assert_eq!(text.parse::<Range>(), Err(NotARange), "{text}");
        }
    }

    #[test]
    fn networks_know_their_addresses() {
        assert_eq!(range("10.0.2.15/24").network(), range("10.0.2.0/24"));
        assert_eq!(range("10.0.2.15/0").network(), range("0.0.0.0/0"));
        assert_eq!(range("10.0.2.15/24").last(), Ipv4Addr::new(10, 0, 2, 255));
        assert_eq!(range("10.43.0.0/16").nth(10), Ipv4Addr::new(10, 43, 0, 10));
        assert!(range("10.0.2.15/24").contains(Ipv4Addr::new(10, 0, 2, 200)));
        assert!(!range("10.0.2.15/24").contains(Ipv4Addr::new(10, 0, 3, 0)));
    }

    #[test]
    fn ranges_overlap_when_one_lies_in_the_other() {
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.43.0.0/16", true),
            ("10.43.0.0/16", "10.0.0.0/8", true),
            ("10.42.0.0/16", "10.43.0.0/16", false),
            ("0.0.0.0/0", "192.168.0.1/32", true),
            ("10.0.2.15/24", "10.0.2.200/25", true),
            ("10.0.2.15/25", "10.0.2.200/25", false),
        ] {
            assert_eq!(range(one).overlaps(range(other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn the_ends_of_a_network_are_no_machines() {
        for (text, expected) in [
            ("10.0.2.0/24", false),
            ("10.0.2.255/24", false),
            ("10.0.2.1/24", true),
            ("10.0.2.0/31", true),
            ("10.0.2.1/31", true),
            ("10.0.2.0/32", true),
        ] {
            assert_eq!(range(text).is_host(), expected, "{text}");
        }
    }
}

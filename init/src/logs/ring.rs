//! The newest bytes of an output, in a bounded piece of memory.

use std::collections::VecDeque;

/// Keeps the newest `limit` bytes.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Ring {
    /// An empty ring of at most `limit` bytes; memory is taken as it fills.
    pub fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    /// Appends; the oldest bytes give way.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let surplus = (self.bytes.len() + bytes.len()).saturating_sub(self.limit);
        self.bytes.drain(..surplus);
        // Doubling past the limit would hold twice the memory that the service's file grants.
        if self.bytes.capacity() < self.bytes.len() + bytes.len() {
            let wanted = (self.bytes.len() + bytes.len()).next_power_of_two().min(self.limit);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend(bytes);
    }

    /// The newest `most` bytes as text; invalid UTF-8 is replaced.
    pub fn text(&self, most: usize) -> String {
        let skip = self.bytes.len().saturating_sub(most);
        let bytes: Vec<u8> = self.bytes.iter().skip(skip).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last line that is not empty, at most `most` bytes of it: a service's last words.
    pub fn last_line(&self, most: usize) -> String {
        let tail = self.text(4096);
        let line = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        line.chars().take(most).filter(|character| !character.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_bytes_and_no_more() {
        let mut ring = Ring::new(8);
        ring.push(b"abcdef");
        assert_eq!(ring.text(99), "abcdef");
        ring.push(b"ghijk");
        assert_eq!(ring.text(99), "defghijk");
        assert_eq!(ring.text(2), "jk");
        ring.push(b"0123456789");
        assert_eq!(ring.text(99), "23456789");
        assert!(ring.bytes.capacity() <= 8);
    }

    #[test]
    fn memory_stays_within_the_limit_however_it_is_fed() {
        let mut ring = Ring::new(1000);
        for length in 0..2000 {
            ring.push(&vec![b'x'; length % 37]);
            assert!(ring.bytes.capacity() <= 1000);
        }
        assert_eq!(ring.text(5000).len(), 1000);
    }

    #[test]
    fn the_last_line_is_the_last_words() {
        let mut ring = Ring::new(100);
        assert_eq!(ring.last_line(10), "");
        ring.push(b"first\npanic: \x1b[31mno space\n\n  \n");
        assert_eq!(ring.last_line(80), "panic: [31mno space");
        assert_eq!(ring.last_line(5), "panic");
    }
}

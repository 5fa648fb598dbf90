//! Log files on data, written by a child of PID 1: the card may be slow, full or gone, PID 1 may not wait for it.
//!
//! PID 1 sends datagrams over a socket pair and never waits; what does not fit is dropped and counted. A datagram is:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | a file is rotated at this size, KiB, little endian |
//! | 4 | 4 | rotated files kept, little endian |
//! | 8 | 1 | length of the name, n |
//! | 9 | n | the service's name |
//! | 9 + n | rest | its output |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use perigee_core::spec::Log;
use rustix::net::{RecvFlags, SendFlags};

const HEADER: usize = 9;
/// Longest datagram: what PID 1 reads from a service at once, and the header.
const LONGEST: usize = super::CHUNK + HEADER + u8::MAX as usize;

/// Sends `bytes` of `name` to the writer. False when they were dropped.
pub fn send(socket: &OwnedFd, name: &str, log: Log, bytes: &[u8]) -> bool {
    let Ok(length) = u8::try_from(name.len()) else { return false };
    let mut datagram = Vec::with_capacity(HEADER + name.len() + bytes.len());
    datagram.extend(log.file_kib.to_le_bytes());
    datagram.extend(log.files.to_le_bytes());
    datagram.push(length);
    datagram.extend(name.as_bytes());
    datagram.extend(bytes);
    rustix::net::send(socket, &datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

/// Takes a datagram apart.
fn parse(datagram: &[u8]) -> Option<(&str, Log, &[u8])> {
    let (file_kib, rest) = datagram.split_first_chunk()?;
    let (files, rest) = rest.split_first_chunk()?;
    let (&[length], rest) = rest.split_first_chunk()?;
    let (name, bytes) = rest.split_at_checked(usize::from(length))?;
    let log = Log { ring_kib: 0, file_kib: u32::from_le_bytes(*file_kib), files: u32::from_le_bytes(*files) };
    Some((str::from_utf8(name).ok()?, log, bytes))
}

/// The child's life: writes what arrives, until PID 1 is gone.
pub fn run(socket: &OwnedFd, folder: &Path) -> i32 {
    let mut files = BTreeMap::new();
    let mut datagram = vec![0; LONGEST];
    while let Ok((length, _)) = rustix::net::recv(socket, &mut datagram[..], RecvFlags::empty())
        && length > 0
    {
        let Some((name, log, bytes)) = parse(&datagram[..length]) else { continue };
        let file = files.entry(name.to_owned()).or_insert_with(|| LogFile::new(folder, name));
        // A full or failing card loses log lines, nothing else; the ring in memory still has them.
        if file.append(log, bytes).is_err() {
            file.open = None;
        }
    }
    0
}

/// `<name>.log`, and `<name>.log.1` (newer) to `.n` (older).
struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl LogFile {
    fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("{name}.log")), open: None }
    }

    fn append(&mut self, log: Log, bytes: &[u8]) -> std::io::Result<()> {
        let (mut file, size) = match self.open.take() {
            Some(open) => open,
            None => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                let size = file.metadata()?.len();
                (file, size)
            }
        };
        file.write_all(bytes)?;
        let size = size + bytes.len() as u64;
        if size < u64::from(log.file_kib) * 1024 {
            self.open = Some((file, size));
            return Ok(());
        }
        self.rotate(log.files)
    }

    fn rotate(&self, keep: u32) -> std::io::Result<()> {
        if keep == 0 {
            return fs::remove_file(&self.path);
        }
        let numbered = |number: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..keep).rev() {
            // Absent until that many have been filled.
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        fs::rename(&self.path, numbered(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_parsed_or_refused_at_every_length() {
        let (sender, receiver) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let log = Log { ring_kib: 0, file_kib: 256, files: 3 };
        assert!(send(&sender, "etcd", log, b"hello\n"));
        let mut datagram = [0; 64];
        let (length, _) = rustix::net::recv(&receiver, &mut datagram[..], RecvFlags::empty()).unwrap();
        assert_eq!(parse(&datagram[..length]), Some(("etcd", log, &b"hello\n"[..])));
        for short in 0..HEADER + 4 {
            assert_eq!(parse(&datagram[..short]), None);
        }
    }

    #[test]
    fn files_are_rotated_and_bounded() {
        let folder = std::env::temp_dir().join(format!("perigee-init-writer-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut file = LogFile::new(&folder, "etcd");
        let log = Log { ring_kib: 0, file_kib: 1, files: 2 };
        for round in 0..40 {
            file.append(log, format!("{round:0>256}").as_bytes()).unwrap();
        }
        let mut sizes: Vec<(String, u64)> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        assert_eq!(sizes, [("etcd.log.1".into(), 1024), ("etcd.log.2".into(), 1024)]);
        assert!(fs::read_to_string(folder.join("etcd.log.1")).unwrap().ends_with("39"));
        fs::remove_dir_all(&folder).unwrap();
    }
}

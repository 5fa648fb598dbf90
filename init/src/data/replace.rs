//! A data partition that nothing can repair is set aside and made new.
//!
//! The new file system is a small image from the root, S bytes, which is grown afterwards. It overwrites the first S
//! bytes of the old one: superblock, group descriptors, the first inodes, which is what someone who wants to rescue
//! the rest needs. So they are first copied to the partition's end, and from there to a file once there is room:
//!
//! ```text
//! old head ──▶ last S bytes        the old file system's end is lost, its head is kept
//! seed     ──▶ first S bytes       block 0 last: until then it is no file system, and a power cut only means again
//! mount, grow to all but the last S bytes
//! last S bytes ──▶ /data/set-aside/head
//! grow to the end
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Copied at once.
const PIECE: usize = 256 * 1024;
/// The part of the seed that makes it a file system; written last.
const FIRST: u64 = 4096;

/// Where the head of the old file system was put, if the partition has room for it: an offset and a length in bytes.
pub fn aside(seed_bytes: u64, partition_bytes: u64) -> Option<(u64, u64)> {
    // Room for the new head, the old head, and the old head as a file.
    (partition_bytes >= 4 * seed_bytes).then(|| (partition_bytes - seed_bytes, seed_bytes))
}

/// Makes the partition new. Blocks for as long as the card takes.
///
/// # Errors
/// The card's, or a seed that is larger than the partition.
pub fn replace(device: &Path, seed: &Path, partition_bytes: u64) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(device)?;
    let seed = File::open(seed)?;
    let length = seed.metadata()?.len();
    if length > partition_bytes || length < FIRST {
        return Err(io::Error::other(format!("a seed of {length} bytes for a partition of {partition_bytes}")));
    }
    if let Some((offset, length)) = aside(length, partition_bytes) {
        // What cannot be read cannot be kept, and is no reason to stay without data.
        if copy(&device, 0, &device, offset, length).is_ok() {
            device.sync_data()?;
        }
    }
    device.write_all_at(&[0; FIRST as usize], 0)?;
    device.sync_data()?;
    copy(&seed, FIRST, &device, FIRST, length - FIRST)?;
    device.sync_data()?;
    copy(&seed, 0, &device, 0, FIRST)?;
    device.sync_data()
}

/// Writes the old head to a file in `folder`.
///
/// # Errors
/// The card's, or no room.
pub fn keep(device: &Path, (offset, length): (u64, u64), folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Its name says that it is whole.
    let part = folder.join("head.part");
    let file = File::create(&part)?;
    copy(&File::open(device)?, offset, &file, 0, length)?;
    file.sync_all()?;
    fs::rename(part, folder.join("head"))
}

fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, length: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < length {
        let part = &mut piece[..PIECE.min(usize::try_from(length - done).unwrap_or(PIECE))];
        from.read_exact_at(part, from_offset + done)?;
        to.write_all_at(part, to_offset + done)?;
        done += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_head_is_kept_where_there_is_room_for_it_twice() {
        assert_eq!(aside(64, 255), None);
        assert_eq!(aside(64, 256), Some((192, 64)));
    }

    #[test]
    fn a_partition_is_made_new_and_its_old_head_is_kept() {
        let folder = std::env::temp_dir().join(format!("perigee-init-replace-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (device, seed) = (folder.join("device"), folder.join("seed"));
        let (seed_bytes, device_bytes) = (300_000, 1_300_000);
        fs::write(&device, (0..device_bytes).map(|byte| (byte % 251) as u8).collect::<Vec<_>>()).unwrap();
        fs::write(&seed, vec![7; seed_bytes]).unwrap();

        replace(&device, &seed, device_bytes as u64).unwrap();
        let now = fs::read(&device).unwrap();
        assert!(now[..seed_bytes].iter().all(|byte| *byte == 7));
        assert_eq!(now.len(), device_bytes);

        let aside = aside(seed_bytes as u64, device_bytes as u64).unwrap();
        keep(&device, aside, &folder.join("aside")).unwrap();
        let kept = fs::read(folder.join("aside/head")).unwrap();
        assert_eq!(kept.len(), seed_bytes);
        assert!(kept.iter().enumerate().all(|(place, byte)| *byte == (place % 251) as u8));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_seed_that_does_not_fit_changes_nothing() {
        let folder = std::env::temp_dir().join(format!("perigee-init-unfit-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (device, seed) = (folder.join("device"), folder.join("seed"));
        fs::write(&device, vec![1; 5000]).unwrap();
        fs::write(&seed, vec![2; 9000]).unwrap();
        assert!(replace(&device, &seed, 5000).is_err());
        assert_eq!(fs::read(&device).unwrap(), vec![1; 5000]);
        fs::remove_dir_all(&folder).unwrap();
    }
}

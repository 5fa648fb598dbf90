//! The count of starts: one decimal number in `<dir>/starts`, replaced torn-safe.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// More than any number needs; a longer file is damaged.
const MAX_BYTES: u64 = 32;

/// Adds one to the count in `dir` and returns it. A count that is missing or damaged begins again at 1.
///
/// # Errors
/// The volume cannot be read or written.
pub fn count(dir: &Path) -> io::Result<u64> {
    let path = dir.join("starts");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => _ = file.take(MAX_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let starts = parse(&bytes).unwrap_or(0).saturating_add(1);
    replace(dir, &path, format!("{starts}\n").as_bytes())?;
    Ok(starts)
}

/// A decimal number and a line feed: without its end it is torn.
fn parse(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?.parse().ok()
}

/// After a power cut at any moment the file holds the old bytes or the new ones: the new ones reach the disk under
/// another name, then take the place, then the folder that says so reaches the disk.
fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("demo-starts-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn each_start_counts_one_more() {
        let dir = folder("more");
        assert_eq!((count(&dir).unwrap(), count(&dir).unwrap(), count(&dir).unwrap()), (1, 2, 3));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_damaged_count_begins_again_and_is_mended() {
        let dir = folder("damaged");
        for damage in [&b""[..], b"\n", b"12", b"-1\n", b"\xff\xfe\n", b"99999999999999999999999\n", &[b'1'; 4096]] {
            fs::write(dir.join("starts"), damage).unwrap();
            assert_eq!(count(&dir).unwrap(), 1, "{damage:?}");
            assert_eq!(count(&dir).unwrap(), 2, "{damage:?}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_missing_volume_is_an_error_with_a_reason() {
        assert_eq!(count(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

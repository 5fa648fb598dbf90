//! Lines of bounded length in bounded time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// What is written at once. Each such piece has to get away in time, not the whole: a long answer over a slow link
/// may take minutes as long as it moves.
const PIECE_BYTES: usize = 4 * 1024;

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is longer than allowed.
    #[error("line longer than {0} bytes")]
    TooLong(usize),
    /// The other side went away in its middle.
    #[error("line without its end")]
    Torn,
    /// Nothing, or not all of it, came or went in time.
    #[error("nothing moved for {} s", .0.as_secs())]
    Idle(Duration),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The next line without its end, whole within `wait`; `None` when the other side has closed.
///
/// # Errors
/// See [`Error`]. After one the connection is of no more use.
pub async fn read(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
    wait: Duration,
) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    // One more for the line feed.
    let mut bounded = reader.take(limit as u64 + 1);
    match timeout(wait, bounded.read_until(b'\n', &mut line)).await.map_err(|_| Error::Idle(wait))? {
        // A TLS client that closes without saying goodbye: between two lines nothing is lost by it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && line.is_empty() => return Ok(None),
        result => result?,
    };
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= limit => Err(Error::TooLong(limit)),
        Some(_) => Err(Error::Torn),
        None => Ok(None),
    }
}

/// The next `bytes` bytes; fewer if the other side went away in their midst. Something has to come within each `wait`.
///
/// # Errors
/// [`Error::Idle`] if nothing more came at all.
pub async fn body(reader: &mut (impl AsyncBufRead + Unpin), bytes: usize, wait: Duration) -> Result<Vec<u8>, Error> {
    let mut body = Vec::with_capacity(bytes);
    let mut reader = reader.take(bytes as u64);
    while body.len() < bytes {
        match timeout(wait, reader.read_buf(&mut body)).await {
            Ok(Ok(1..)) => {}
            // What came is worth keeping.
            Ok(_) => break,
            Err(_) if body.is_empty() => return Err(Error::Idle(wait)),
            Err(_) => break,
        }
    }
    Ok(body)
}

/// Writes `line` and its end; each piece of it within `wait`.
///
/// # Errors
/// [`Error::Idle`] or [`Error::Io`].
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), line: &[u8], wait: Duration) -> Result<(), Error> {
    for piece in line.chunks(PIECE_BYTES).chain([&b"\n"[..]]) {
        timeout(wait, writer.write_all(piece)).await.map_err(|_| Error::Idle(wait))??;
    }
    timeout(wait, writer.flush()).await.map_err(|_| Error::Idle(wait))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    const WAIT: Duration = Duration::from_millis(50);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn lines_come_one_by_one_up_to_the_limit() {
        let mut reader = BufReader::new(&b"one\n\n12345\n123456\n"[..]);
        run(async {
            assert_eq!(read(&mut reader, 5, WAIT).await.unwrap().unwrap(), b"one");
            assert_eq!(read(&mut reader, 5, WAIT).await.unwrap().unwrap(), b"");
            assert_eq!(read(&mut reader, 5, WAIT).await.unwrap().unwrap(), b"12345");
            assert!(matches!(read(&mut reader, 5, WAIT).await, Err(Error::TooLong(5))));
        });
    }

    #[test]
    fn a_close_is_none_between_lines_and_an_error_within_one() {
        run(async {
            assert!(read(&mut BufReader::new(&b""[..]), 5, WAIT).await.unwrap().is_none());
            assert!(matches!(read(&mut BufReader::new(&b"on"[..]), 5, WAIT).await, Err(Error::Torn)));
        });
    }

    #[test]
    fn a_side_that_does_not_move_is_given_up() {
        run(async {
            let (near, mut far) = tokio::io::duplex(16);
            far.write_all(b"half").await.unwrap();
            assert!(matches!(read(&mut BufReader::new(near), 64, WAIT).await, Err(Error::Idle(_))));
            let (mut near, _far) = tokio::io::duplex(16);
            assert!(matches!(write(&mut near, &[b'x'; 64], WAIT).await, Err(Error::Idle(_))));
        });
    }
}

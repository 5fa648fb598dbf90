//! As much of HTTP/1.1 (RFC 9112) as the demo speaks: `GET` without a body, one request a connection.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// Longest request that is read, and longest response's head.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Longest response that is read: the demo's own are far shorter.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// A browser sends about 20.
const MAX_HEADERS: usize = 64;

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side went away, or the time is over.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not HTTP.
    #[error("not HTTP/1.1: {0}")]
    Syntax(#[from] httparse::Error),
    /// It is too long.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The other side closed before the end.
    #[error("ends before its end")]
    Torn,
    /// Another method than GET.
    #[error("method {0} is not served; use GET")]
    Method(String),
    /// Another status than 200.
    #[error("answered with status {0}, expected 200")]
    Status(u16),
}

/// A response to be written.
#[derive(Debug)]
pub struct Reply {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Reply {
    /// Plain text.
    pub fn text(status: u16, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// JSON on one line.
    pub fn json(status: u16, body: serde_json::Value) -> Self {
        Self { status, content_type: "application/json", body: format!("{body}\n") }
    }

    /// Writes it and says that the connection ends.
    ///
    /// # Errors
    /// The client is gone or does not read.
    pub fn write(&self, stream: &mut TcpStream, deadline: Instant) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            _ => "Bad Gateway",
        };
        let message = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.status,
            self.content_type,
            self.body.len(),
            self.body
        );
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream.write_all(message.as_bytes())
    }
}

/// Reads one request and returns its path without the query.
///
/// # Errors
/// See [`Error`].
pub fn read_request(stream: &mut TcpStream, deadline: Instant) -> Result<String, Error> {
    let mut bytes = Vec::new();
    loop {
        if let Some(path) = parse_request(&bytes)? {
            return Ok(path);
        }
        if bytes.len() >= MAX_HEAD_BYTES {
            return Err(Error::TooLong(MAX_HEAD_BYTES));
        }
        if !read_some(stream, &mut bytes, deadline)? {
            return Err(Error::Torn);
        }
    }
}

/// The path of a whole request's head; `None` while it is not whole.
fn parse_request(bytes: &[u8]) -> Result<Option<String>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes)?.is_partial() {
        return Ok(None);
    }
    match (request.method, request.path) {
        (Some("GET"), Some(target)) => Ok(Some(target.split('?').next().unwrap_or_default().to_owned())),
        (method, _) => Err(Error::Method(method.unwrap_or_default().to_owned())),
    }
}

/// The body that `http://address/` answers with.
///
/// # Errors
/// See [`Error`].
pub fn get(address: SocketAddr, host: &str, deadline: Instant) -> Result<String, Error> {
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    while read_some(&mut stream, &mut bytes, deadline)? {
        if bytes.len() > MAX_RESPONSE_BYTES {
            return Err(Error::TooLong(MAX_RESPONSE_BYTES));
        }
    }
    parse_response(&bytes)
}

/// The body of a whole response with status 200.
fn parse_response(bytes: &[u8]) -> Result<String, Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Err(Error::Torn) };
    match response.code {
        Some(200) => {}
        code => return Err(Error::Status(code.unwrap_or(0))),
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let body = &bytes[head..];
    if length.is_some_and(|length| length != body.len()) {
        return Err(Error::Torn);
    }
    Ok(String::from_utf8_lossy(body).into_owned())
}

/// Reads what there is; `false` at the end.
fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut buffer = [0; 2048];
    let length = stream.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..length]);
    Ok(length > 0)
}

/// Time until `deadline`, never zero: a socket takes zero for "for ever".
fn left(deadline: Instant) -> io::Result<std::time::Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn a_request_is_its_path_without_the_query() {
        let whole = b"GET /healthz?verbose HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(parse_request(whole).unwrap().as_deref(), Some("/healthz"));
        for cut in 0..whole.len() {
            assert!(parse_request(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn anything_but_a_get_is_a_named_error() {
        assert!(matches!(parse_request(b"POST / HTTP/1.1\r\n\r\n"), Err(Error::Method(m)) if m == "POST"));
        assert!(matches!(parse_request(b"\x16\x03\x01\x02\x00"), Err(Error::Syntax(_))));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parse_request(many.as_bytes()), Err(Error::Syntax(httparse::Error::TooManyHeaders))));
    }

    #[test]
    fn a_response_must_be_whole_and_200() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        assert_eq!(parse_response(whole).unwrap(), "ok\n");
        for cut in 0..whole.len() {
            assert!(parse_response(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(matches!(parse_response(b"HTTP/1.1 503 No\r\n\r\n"), Err(Error::Status(503))));
    }

    #[test]
    fn any_byte_in_a_message_is_a_value_or_an_error() {
        for whole in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"] {
            for place in 0..whole.len() {
                for value in 0..=255 {
                    let mut damaged = whole.to_vec();
                    damaged[place] = value;
                    let _ = parse_request(&damaged);
                    let _ = parse_response(&damaged);
                }
            }
        }
    }

    #[test]
    fn an_endless_request_and_a_silent_client_both_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        client.write_all(b"GET /").unwrap();
        client.write_all(&vec![b'a'; MAX_HEAD_BYTES * 2]).unwrap();
        assert!(matches!(read_request(&mut stream, soon()), Err(Error::TooLong(_))));

        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        assert!(matches!(read_request(&mut stream, deadline), Err(Error::Io(_))));
    }

    #[test]
    fn a_reply_is_read_back_as_written() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(read_request(&mut stream, soon()).unwrap(), "/");
            Reply::text(200, "hello\n".into()).write(&mut stream, soon()).unwrap();
        });
        assert_eq!(get(address, "demo", soon()).unwrap(), "hello\n");
        server.join().unwrap();
    }
}

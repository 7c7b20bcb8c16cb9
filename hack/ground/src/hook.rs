//! A stand-in for what a team would hang on a release: an HTTP server that says yes, or no while a file exists.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Answers every request on a port of loopback: 200, or 403 while the file `deny` exists.
pub(crate) fn serve(port: u16, deny: &Path) -> Result<()> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listening on 127.0.0.1:{port}"))?;
    for stream in listener.incoming() {
        // A peer that goes away in the middle is its own loss.
        let _ = stream.map(|stream| answer(stream, deny.exists()));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, denied: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        request.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || complete(&request) {
            break;
        }
    }
    let (status, body) = if denied { ("403 Forbidden", "error budget spent") } else { ("200 OK", "OK") };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// Whether head and body of a request are there; its length is stated by every client that we have.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

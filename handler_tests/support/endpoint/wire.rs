//! HTTP/1.1 as far as the simulator needs it, on a bare socket: a framework would neither show the bytes that arrived
//! nor break a connection in the middle of an answer.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Route;

/// A request, as it came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What it is for.
    pub route: Route,
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Names and values, as sent and in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When its last byte had arrived.
    pub at: Instant,
}

impl Recorded {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether this is a progress report rather than a result.
    pub fn is_progress(&self) -> bool {
        self.json().get("status").is_some_and(|status| status == "IN_PROGRESS")
    }

    /// The job that a post is about.
    pub fn job_id(&self) -> String {
        let path = self.target.split(['?', '&']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }
}

/// What the simulator does with one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer.
    Answer {
        /// Status.
        status: u16,
        /// Headers besides `Content-Length`.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// No answer until the client hangs up.
    Hold,
    /// The whole request is read, then the connection is reset.
    Reset,
    /// The head announces the whole body, half of it is sent, then the connection closes.
    HalfBody(Vec<u8>),
    /// The head and half the body at once, the rest after the time.
    Slow(Duration, Vec<u8>),
    /// Another reply, later.
    After(Duration, Box<Reply>),
}

impl Reply {
    /// An empty answer.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    /// JSON under its own content type.
    pub fn json(value: &Value) -> Self {
        Self::status(200).with_header("Content-Type", "application/json").with_body(value.to_string())
    }

    /// With another header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, new: impl Into<Vec<u8>>) -> Self {
        if let Self::Answer { body, .. } = &mut self {
            *body = new.into();
        }
        self
    }
}

/// The next request on a kept-alive connection; `None` when the client is done.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<Recorded>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default().to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let length: usize = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            n => body.extend_from_slice(&chunk[..n]),
        }
    }
    let route = Route::of(&target);
    Ok(Some(Recorded { route, method, target, headers, body, at: Instant::now() }))
}

/// Carries out `reply`; `false` once the connection is of no more use.
pub(super) async fn write(stream: &mut TcpStream, reply: Reply) -> io::Result<bool> {
    let mut reply = reply;
    while let Reply::After(wait, inner) = reply {
        tokio::time::sleep(wait).await;
        reply = *inner;
    }
    match reply {
        Reply::Answer { status, headers, body } => {
            let mut out = head(status, &headers, body.len());
            out.extend_from_slice(&body);
            stream.write_all(&out).await?;
            Ok(true)
        }
        Reply::Hold | Reply::After(..) => {
            // Reads nothing but the end: clients do not pipeline.
            let mut one = [0];
            while stream.read(&mut one).await? > 0 {}
            Ok(false)
        }
        Reply::Reset => {
            // Closing with linger 0 sends RST.
            stream.set_zero_linger()?;
            Ok(false)
        }
        Reply::HalfBody(body) => {
            let mut out = head(200, &[json_type()], body.len());
            out.extend_from_slice(&body[..body.len() / 2]);
            stream.write_all(&out).await?;
            Ok(false)
        }
        Reply::Slow(wait, body) => {
            let mut out = head(200, &[json_type()], body.len());
            let half = body.len() / 2;
            out.extend_from_slice(&body[..half]);
            stream.write_all(&out).await?;
            tokio::time::sleep(wait).await;
            stream.write_all(&body[half..]).await?;
            Ok(true)
        }
    }
}

fn json_type() -> (String, String) {
    ("Content-Type".to_owned(), "application/json".to_owned())
}

fn head(status: u16, headers: &[(String, String)], length: usize) -> Vec<u8> {
    let length = (status != 204).then(|| ("Content-Length".to_owned(), length.to_string()));
    let lines = headers.iter().chain(&length).map(|(name, value)| format!("{name}: {value}\r\n"));
    [format!("HTTP/1.1 {status} Status\r\n")]
        .into_iter()
        .chain(lines)
        .chain(["\r\n".to_owned()])
        .collect::<String>()
        .into()
}

//! Who may call the local API: the bearer key, and without one the defences against web pages.
//!
//! Called by [`super::routes`] before every route.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::routes::{Api, refuse};

/// The rules of one server.
///
/// With a key, a page that runs in a browser cannot guess it, and nothing else is asked. Without a key, "only processes
/// of this machine can connect" is all the protection there is, and a browser of this machine runs anybody's pages. So:
/// - a request whose `Origin` is not this server is refused: a page of another site posts jobs otherwise (it could not
///   read the answers, but the jobs would run);
/// - on a loopback address, a request whose `Host` is a name other than `localhost` is refused: a site can let its own
///   name resolve to 127.0.0.1 after its page was loaded (DNS rebinding), and its page then counts as same-origin.
///
/// A server that is bound to other addresses on purpose is reached by names that it cannot know, so `Host` is not
/// checked there; [`exposure_warning`] asks for a key instead.
pub(super) struct Guard {
    key: Option<String>,
    bound: IpAddr,
}

impl Guard {
    pub(super) fn new(key: Option<String>, address: SocketAddr) -> Self {
        Self { key, bound: address.ip() }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        if let Some(key) = &self.key {
            // The page asks for the key itself, its description is no secret, and probes send no headers.
            if matches!(path, "/" | "/openapi.json" | "/ping") || bears(headers, key) {
                return Ok(());
            }
            let message = "missing or wrong key; send the header \"Authorization: Bearer <key>\"";
            return Err((StatusCode::UNAUTHORIZED, message.to_owned()));
        }
        let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if self.bound.is_loopback() && !is_local(host) {
            let message = format!(
                "the Host header names {host:?}, but this server answers only as localhost; use http://127.0.0.1 or set a key"
            );
            return Err((StatusCode::FORBIDDEN, message));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
            if own.is_none_or(|own| !own.eq_ignore_ascii_case(host)) {
                let message = "requests from pages of other sites are refused while no key is set";
                return Err((StatusCode::FORBIDDEN, message.to_owned()));
            }
        }
        Ok(())
    }
}

fn bears(headers: &HeaderMap, key: &str) -> bool {
    let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return false };
    let Some((scheme, token)) = value.split_once(' ') else { return false };
    // The comparison takes the same time wherever the first difference is; only the length shows.
    scheme.eq_ignore_ascii_case("bearer") && bool::from(token.trim().as_bytes().ct_eq(key.as_bytes()))
}

/// Whether a `Host` header means this machine. The port is of no matter: it may be forwarded.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A warning for whoever starts a server that others can reach without a key.
pub fn exposure_warning(address: SocketAddr, key: Option<&str>) -> Option<String> {
    (key.is_none() && !address.ip().is_loopback()).then(|| {
        format!(
            "{address} is reachable from other machines and no key is set: anyone there can run and read jobs; set \
             MARQUEE_API_KEY or bind to 127.0.0.1"
        )
    })
}

pub(super) async fn layer(State(api): State<Api>, request: Request, next: Next) -> Response {
    match api.guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, message)) => {
            let mut response = refuse(status, message).into_response();
            if status == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

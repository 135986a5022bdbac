//! The bearer key, and what protects a server without one.

use marquee::source::http::exposure_warning;
use reqwest::{Method, StatusCode};

use super::{Server, answer, input};

#[tokio::test]
async fn with_a_key_nothing_works_without_it_but_page_description_and_probe() {
    let server = Server::start(&[("MARQUEE_API_KEY", "s3cret")]).await;
    for (method, path) in [
        (Method::POST, "/run"),
        (Method::POST, "/runsync"),
        (Method::POST, "/v2/ep/run"),
        (Method::GET, "/status/x"),
        (Method::GET, "/v2/ep/stream/x"),
        (Method::POST, "/cancel/x"),
        (Method::POST, "/retry/x"),
        (Method::GET, "/health"),
        (Method::POST, "/purge-queue"),
        (Method::POST, "/ep1/realtime"),
        (Method::GET, "/nothing"),
    ] {
        for header in [
            None,
            Some("Bearer s3cre"),
            Some("Bearer s3cret2"),
            Some("Bearer "),
            Some("s3cret"),
            Some("Basic s3cret"),
        ] {
            let mut request = server.request(method.clone(), path).body(input(1).to_string());
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let reply = request.send().await.unwrap();
            assert_eq!(reply.status(), StatusCode::UNAUTHORIZED, "{method} {path} {header:?}");
            assert_eq!(reply.headers()["www-authenticate"], "Bearer");
        }
    }
    for path in ["/", "/openapi.json", "/ping"] {
        assert_eq!(
            server.request(Method::GET, path).send().await.unwrap().status(),
            StatusCode::OK,
            "{path}"
        );
    }
    for header in ["Bearer s3cret", "bearer s3cret"] {
        let request = server.request(Method::POST, "/run").body(input(1).to_string());
        let (code, reply) = answer(request.header("authorization", header)).await;
        assert_eq!(code, StatusCode::OK, "{reply}");
    }
    let request = server.request(Method::GET, "/health").header("host", "worker.example");
    let (code, _) =
        answer(request.header("authorization", "Bearer s3cret").header("origin", "https://a.example")).await;
    assert_eq!(code, StatusCode::OK, "a key is proof enough");
}

#[tokio::test]
async fn without_a_key_only_this_machines_names_are_answered() {
    let server = Server::start(&[]).await;
    for (host, expected) in [
        ("127.0.0.1", StatusCode::OK),
        ("127.0.0.1:9999", StatusCode::OK),
        ("127.8.8.8", StatusCode::OK),
        ("localhost:1", StatusCode::OK),
        ("LOCALHOST", StatusCode::OK),
        ("app.localhost", StatusCode::OK),
        ("[::1]:80", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
        ("evil.example:80", StatusCode::FORBIDDEN),
        ("localhost.evil.example", StatusCode::FORBIDDEN),
        ("127.0.0.1.evil.example", StatusCode::FORBIDDEN),
        ("192.168.0.1", StatusCode::FORBIDDEN),
        ("[fe80::1]", StatusCode::FORBIDDEN),
        ("", StatusCode::FORBIDDEN),
    ] {
        let (code, reply) = answer(server.request(Method::GET, "/health").header("host", host)).await;
        assert_eq!(code, expected, "{host}: {reply}");
    }
}

#[tokio::test]
async fn without_a_key_pages_of_other_sites_cannot_post() {
    let server = Server::start(&[]).await;
    let own = server.base.clone();
    for (origin, expected) in [
        (own.as_str(), StatusCode::OK),
        ("https://evil.example", StatusCode::FORBIDDEN),
        ("http://localhost:1", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
    ] {
        let request = server.request(Method::POST, "/run").body(input(1).to_string());
        let reply = request.header("origin", origin).send().await.unwrap();
        assert_eq!(reply.status(), expected, "{origin}");
        assert!(!reply.headers().contains_key("access-control-allow-origin"));
    }
}

#[test]
fn a_server_that_others_reach_without_a_key_is_worth_a_warning() {
    let warns = |address: &str, key| exposure_warning(address.parse().unwrap(), key).is_some();
    assert!(warns("0.0.0.0:8000", None));
    assert!(warns("192.168.1.4:8000", None));
    assert!(warns("[::]:8000", None));
    assert!(!warns("0.0.0.0:8000", Some("key")));
    assert!(!warns("127.0.0.1:8000", None));
    assert!(!warns("[::1]:8000", None));
}

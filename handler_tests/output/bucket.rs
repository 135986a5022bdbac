//! Uploads against a store on this machine that keeps what it is sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use marquee::config::BucketConfig;
use marquee::job::JobId;
use marquee::output::{Ahead, Bucket, BucketError, render_for_delivery};
use serde_json::{Value, json};

use super::{artifacts, noise, parsed, planned};

#[derive(Default)]
struct Store {
    objects: HashMap<String, (Bytes, String)>,
    queries: Vec<String>,
    attempts: usize,
    failures: usize,
    status: u16,
}

type Shared = Arc<Mutex<Store>>;

async fn put(State(store): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut store = store.lock().unwrap();
    store.attempts += 1;
    store.queries.push(uri.query().unwrap_or_default().to_owned());
    if store.attempts <= store.failures {
        return StatusCode::from_u16(store.status).unwrap();
    }
    let kind = headers["content-type"].to_str().unwrap().to_owned();
    store.objects.insert(uri.path().to_owned(), (body, kind));
    StatusCode::OK
}

/// A store that answers its first `failures` requests with `status`.
async fn store(failures: usize, status: u16) -> (Shared, BucketConfig) {
    let shared: Shared = Arc::new(Mutex::new(Store { failures, status, ..Store::default() }));
    let app = Router::new()
        .fallback(axum::routing::put(put))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(Arc::clone(&shared));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config = BucketConfig {
        endpoint,
        name: "adverts".to_owned(),
        access_key_id: "KEY".to_owned(),
        secret_access_key: "SECRET".to_owned(),
        region: "eu-west-1".to_owned(),
        always: false,
    };
    (shared, config)
}

fn bucket(config: &BucketConfig) -> Bucket {
    // Another test may have been first: the provider is the process's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Bucket::new(config, client).unwrap().with_first_pause(Duration::from_millis(1))
}

async fn delivered(id: &str, limit: Option<u64>, bucket: &Bucket) -> Value {
    let (id, plan) = (JobId::new(id).unwrap(), planned(&json!({})));
    let body = render_for_delivery(artifacts(64), (&plan, Ahead::of(&plan).into()), &id, limit, Some(bucket))
        .await
        .unwrap();
    if let Some(limit) = limit {
        assert!(body.get().len() as u64 <= limit);
    }
    parsed(&body)
}

#[tokio::test]
async fn a_result_that_is_too_large_goes_to_the_bucket() {
    let (shared, config) = store(0, 200).await;
    let output = delivered("job-1", Some(6_000), &bucket(&config)).await;
    assert_eq!(output["images"], json!({}));
    let names = ["step1_result", "step2_result", "final_result"];
    assert_eq!(output["image_urls"].as_object().unwrap().keys().collect::<Vec<_>>(), names);
    let store = shared.lock().unwrap();
    for name in names {
        let url: url::Url = output["image_urls"][name].as_str().unwrap().parse().unwrap();
        assert_eq!(url.path(), format!("/adverts/job-1/{name}.png"));
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(query["X-Amz-Expires"], "604800");
        assert_eq!(query["X-Amz-Signature"].len(), 64);
        assert!(query["X-Amz-Credential"].contains("/eu-west-1/s3/"));
        assert_eq!(store.objects[url.path()].1, "image/png");
    }
    let stored = &store.objects["/adverts/job-1/final_result.png"].0;
    assert_eq!(image::load_from_memory(stored).unwrap(), noise(64, 2));
    for query in &store.queries {
        assert!(
            query.contains("X-Amz-Signature=") && query.contains("X-Amz-SignedHeaders=content-type%3Bhost")
        );
    }
    assert_eq!(store.attempts, 3);
    assert!(!output.to_string().contains("SECRET"));
}

#[tokio::test]
async fn a_result_that_fits_stays_in_the_body_unless_the_bucket_is_for_all() {
    let (shared, mut config) = store(0, 200).await;
    let output = delivered("job-1", None, &bucket(&config)).await;
    assert_eq!(output["images"].as_object().unwrap().len(), 3);
    assert_eq!(shared.lock().unwrap().attempts, 0);
    config.always = true;
    let output = delivered("job-1", None, &bucket(&config)).await;
    assert_eq!(output["image_urls"].as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn server_errors_are_retried() {
    let (shared, config) = store(2, 503).await;
    let bucket = bucket(&config);
    let id = JobId::new("job").unwrap();
    let png = marquee::input::plan::OutputFormat::Png;
    bucket.upload(&id, "final_result", png, "body".into()).await.unwrap();
    let store = shared.lock().unwrap();
    assert_eq!(store.attempts, 3);
    assert_eq!(store.objects["/adverts/job/final_result.png"].0, "body");
}

#[tokio::test]
async fn refusals_are_not_retried_and_endless_errors_end() {
    let png = marquee::input::plan::OutputFormat::Png;
    let id = JobId::new("job").unwrap();
    for (status, attempts) in [(403, 1), (500, 4)] {
        let (shared, config) = store(usize::MAX, status).await;
        let error = bucket(&config).upload(&id, "x", png, "body".into()).await.unwrap_err();
        assert!(matches!(error, BucketError::Refused { status: found, .. } if found == status), "{error}");
        assert_eq!(shared.lock().unwrap().attempts, attempts);
    }
}

#[tokio::test]
async fn without_its_bucket_a_result_is_shrunk_instead() {
    let (_, config) = store(usize::MAX, 403).await;
    // Room for the final image alone.
    let output = delivered("job", Some(30_000), &bucket(&config)).await;
    assert_eq!(output["images"].as_object().unwrap().len(), 1);
    let warnings = output["warnings"].to_string();
    assert!(warnings.contains("could not be uploaded") && warnings.contains("left out"), "{warnings}");
    assert!(!warnings.contains("X-Amz-Signature"), "{warnings}");
}

#[tokio::test]
async fn a_dead_store_is_named_without_its_signature() {
    let (_, mut config) = store(0, 200).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let png = marquee::input::plan::OutputFormat::Png;
    let id = JobId::new("job").unwrap();
    let error = bucket(&config).upload(&id, "x", png, "body".into()).await.unwrap_err();
    assert!(matches!(error, BucketError::Transport { attempts: 4, .. }), "{error}");
    assert!(!error.to_string().contains("X-Amz"), "{error}");
}

#[tokio::test]
async fn no_job_id_leaves_its_folder() {
    let (shared, config) = store(0, 200).await;
    let bucket = bucket(&config);
    let png = marquee::input::plan::OutputFormat::Png;
    for id in ["..", "../../other", "a/b", "a%2Fb", "ä b?#&", &"é".repeat(256)] {
        bucket.upload(&JobId::new(id).unwrap(), "x", png, "body".into()).await.unwrap();
    }
    let store = shared.lock().unwrap();
    assert_eq!(store.objects.len(), 6, "{:?}", store.objects.keys());
    for path in store.objects.keys() {
        let parts: Vec<_> = path.split('/').collect();
        assert!(
            matches!(parts.as_slice(), ["", "adverts", folder, "x.png"] if !folder.contains("..")),
            "{path}"
        );
        assert!(path.len() < 1400, "{path}");
    }
}

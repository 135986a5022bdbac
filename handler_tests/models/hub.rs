//! Fetching models, against a stand-in for the Hub on this machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use marquee::http_client;
use marquee::hub::{self, Checksum, Hub, HubError, Listing, Place, RemoteFile};
use marquee::models::checkpoint::{Caches, Location, locate};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// What the stand-in does beside serving.
#[derive(Default)]
struct Behaviour {
    /// Ends the first transfer of a file after so many bytes.
    cut: Option<usize>,
    /// Answers ranges with the whole file.
    no_ranges: bool,
    /// Sends other bytes than it announced.
    lies: bool,
    /// Answers everything with this.
    status: Option<StatusCode>,
    /// Sends files from another host.
    elsewhere: Option<String>,
}

#[derive(Default)]
struct Stand {
    files: HashMap<String, Vec<u8>>,
    behaviour: Behaviour,
    asked: Mutex<Vec<Asked>>,
}

/// Path, Range, Authorization of a request for a file.
type Asked = (String, Option<String>, Option<String>);

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| char::from(b"0123456789abcdef"[usize::from(half)]))
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

async fn describe(State(stand): State<Arc<Stand>>) -> Response {
    if let Some(status) = stand.behaviour.status {
        return status.into_response();
    }
    let siblings: Vec<Value> = stand
        .files
        .iter()
        .map(|(path, bytes)| {
            json!({"rfilename": path, "size": bytes.len(), "blobId": "f".repeat(40),
                   "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 1}})
        })
        .collect();
    axum::Json(json!({"sha": COMMIT, "siblings": siblings, "id": "org/name"})).into_response()
}

async fn serve(
    State(stand): State<Arc<Stand>>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let range = text(header::RANGE);
    let first = {
        let mut asked = stand.asked.lock().unwrap();
        asked.push((path.clone(), range.clone(), text(header::AUTHORIZATION)));
        asked.iter().filter(|(other, ..)| *other == path).count() == 1
    };
    if let Some(host) = &stand.behaviour.elsewhere {
        return (StatusCode::FOUND, [(header::LOCATION, format!("{host}/org/name/resolve/{COMMIT}/{path}"))])
            .into_response();
    }
    let Some(bytes) = stand.files.get(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let mut bytes = bytes.clone();
    if stand.behaviour.lies {
        bytes[0] ^= 1;
    }
    let from = match range.filter(|_| !stand.behaviour.no_ranges) {
        Some(range) => range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap(),
        None => 0,
    };
    let rest = bytes.split_off(from);
    let mut answer = Response::builder().header(header::CONTENT_LENGTH, rest.len());
    if from > 0 {
        let range = format!("bytes {from}-{}/{}", from + rest.len() - 1, from + rest.len());
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    let body = match stand.behaviour.cut.filter(|_| first) {
        Some(cut) => {
            let sent = Bytes::copy_from_slice(&rest[..cut]);
            // A pause in between, in which what was sent so far leaves the server.
            let broken = async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            };
            Body::from_stream(stream::iter([Ok(sent)]).chain(stream::once(broken)))
        }
        None => Body::from(rest),
    };
    answer.body(body).unwrap()
}

async fn stand_at(stand: Arc<Stand>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/api/models/org/name/revision/main", get(describe))
        .route(&format!("/org/name/resolve/{COMMIT}/{{*path}}"), get(serve))
        .with_state(stand);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn hub_at(endpoint: &str) -> Hub {
    Hub {
        client: http_client::client().unwrap(),
        endpoint: endpoint.parse().unwrap(),
        token: Some("secret".to_owned()),
        patience: Duration::from_millis(1),
    }
}

struct Run {
    stand: Arc<Stand>,
    folder: TempDir,
    listing: Result<Listing, HubError>,
    result: Result<(), HubError>,
}

impl Run {
    fn path(&self, relative: &str) -> std::path::PathBuf {
        self.folder.path().join(relative)
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.stand.asked.lock().unwrap().iter().map(|(_, range, _)| range.clone()).collect()
    }
}

const WEIGHTS: &str = "model.safetensors";

fn weights() -> Vec<u8> {
    (0..100_000u32).map(|at| (at % 251) as u8).collect()
}

/// Fetches a lone net of two files into a plain folder.
async fn run(behaviour: Behaviour) -> Run {
    run_from(tempfile::tempdir().unwrap(), behaviour).await
}

async fn run_from(folder: TempDir, behaviour: Behaviour) -> Run {
    let files = HashMap::from([
        (WEIGHTS.to_owned(), weights()),
        ("config.json".to_owned(), b"{}".to_vec()),
        ("pytorch_model.bin".to_owned(), vec![0; 9]),
    ]);
    let stand = Arc::new(Stand { files, behaviour, ..Stand::default() });
    let hub = hub_at(&stand_at(Arc::clone(&stand)).await);
    let listing = hub::list(&hub, "org/name", "main").await;
    let result = match &listing {
        Ok(listing) => {
            let place = Place::Folder(folder.path().to_owned());
            hub::fetch(&hub, listing, &hub::wanted(&listing.files), &place, &|_| ()).await
        }
        Err(_) => Ok(()),
    };
    Run { stand, folder, listing, result }
}

#[tokio::test]
async fn what_is_read_arrives_and_nothing_else() {
    let run = run(Behaviour::default()).await;
    run.result.as_ref().unwrap();
    assert_eq!(std::fs::read(run.path(WEIGHTS)).unwrap(), weights());
    assert!(run.path("config.json").is_file());
    assert!(!run.path("pytorch_model.bin").exists());
    assert!(!run.path("model.safetensors.incomplete").exists());
    assert_eq!(hub::verify(run.folder.path()).unwrap().0, 2);
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let run = run(Behaviour { cut: Some(1), ..Behaviour::default() }).await;
    run.result.as_ref().unwrap();
    assert_eq!(std::fs::read(run.path(WEIGHTS)).unwrap(), weights());
    assert_eq!(run.ranges().iter().filter(|range| range.as_deref() == Some("bytes=1-")).count(), 2);
}

#[tokio::test]
async fn a_later_run_goes_on_with_what_an_earlier_left() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors.incomplete"), &weights()[..70_000]).unwrap();
    let run = run_from(folder, Behaviour::default()).await;
    run.result.as_ref().unwrap();
    assert_eq!(std::fs::read(run.path(WEIGHTS)).unwrap(), weights());
    assert!(run.ranges().contains(&Some("bytes=70000-".to_owned())));
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let run = run(Behaviour { cut: Some(2), no_ranges: true, ..Behaviour::default() }).await;
    run.result.as_ref().unwrap();
    assert_eq!(std::fs::read(run.path(WEIGHTS)).unwrap(), weights());
}

#[tokio::test]
async fn wrong_bytes_never_get_their_final_name() {
    let run = run(Behaviour { lies: true, ..Behaviour::default() }).await;
    let error = run.result.as_ref().unwrap_err();
    assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
    for name in [WEIGHTS, "model.safetensors.incomplete", ".marquee-manifest.json"] {
        // The two files go at the same time; only the one that failed first is sure to be gone.
        let partial = name.ends_with(".incomplete") && !error.to_string().starts_with(WEIGHTS);
        assert!(partial || !run.path(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_gated_model_says_what_to_do() {
    let run = run(Behaviour { status: Some(StatusCode::FORBIDDEN), ..Behaviour::default() }).await;
    let error = run.listing.unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN") && error.contains("licence"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_stays_broken_is_given_up() {
    let run = run(Behaviour { status: Some(StatusCode::BAD_GATEWAY), ..Behaviour::default() }).await;
    let error = run.listing.unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 6, .. }), "{error}");
}

#[tokio::test]
async fn the_token_stays_with_the_hub() {
    let files = HashMap::from([(WEIGHTS.to_owned(), weights())]);
    let network = Arc::new(Stand { files, ..Stand::default() });
    let elsewhere = stand_at(Arc::clone(&network)).await;
    let run = run(Behaviour { elsewhere: Some(elsewhere), ..Behaviour::default() }).await;
    // The content network has no config.json.
    assert!(matches!(run.result, Err(HubError::NotFound { .. }) | Ok(())));
    let token = |stand: &Stand| stand.asked.lock().unwrap().iter().any(|(.., token)| token.is_some());
    assert!(token(&run.stand));
    assert!(!network.asked.lock().unwrap().is_empty());
    assert!(!token(&network));
}

#[tokio::test]
async fn a_file_that_another_process_fetches_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let held = std::fs::File::create(folder.path().join("model.safetensors.incomplete")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let run = run_from(folder, Behaviour::default()).await;
    assert!(matches!(run.result, Err(HubError::Busy { .. })));
}

#[tokio::test]
async fn a_full_disk_is_noticed_before_the_first_byte() {
    let stand = Arc::new(Stand::default());
    let hub = hub_at(&stand_at(Arc::clone(&stand)).await);
    let folder = tempfile::tempdir().unwrap();
    let huge = remote(WEIGHTS, u64::MAX / 2);
    let listing = Listing { id: "org/name".to_owned(), commit: COMMIT.to_owned(), files: vec![huge.clone()] };
    let place = Place::in_cache(folder.path(), "org/name").unwrap();
    let error = hub::fetch(&hub, &listing, &[huge], &place, &|_| ()).await.unwrap_err();
    assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
    assert!(stand.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_cached_model_is_found_once_it_is_whole() {
    let files = HashMap::from([(WEIGHTS.to_owned(), weights()), ("config.json".to_owned(), b"{}".to_vec())]);
    let stand = Arc::new(Stand { files, ..Stand::default() });
    let hub = hub_at(&stand_at(Arc::clone(&stand)).await);
    let cache = tempfile::tempdir().unwrap();
    let caches = Caches { roots: vec![cache.path().to_owned()] };
    let place = Place::in_cache(cache.path(), "org/name").unwrap();
    let listing = hub::list(&hub, "org/name", "main").await.unwrap();
    let files = hub::wanted(&listing.files);
    hub::fetch(&hub, &listing, &[remote("absent.json", 3)], &place, &|_| ()).await.unwrap_err();
    assert!(locate("org/name", &caches).is_err());

    hub::fetch(&hub, &listing, &files, &place, &|_| ()).await.unwrap();
    let Location::Folder(found) = locate("org/name", &caches).unwrap() else { panic!("a file") };
    assert_eq!(found, place.model(&listing));
    assert_eq!(std::fs::read(found.join(WEIGHTS)).unwrap(), weights());
    assert!(place.missing(&files).is_empty());
    assert!(matches!(hub::verify(&found).unwrap(), (2, wrong) if wrong.is_empty()));

    std::fs::write(found.join(WEIGHTS).canonicalize().unwrap(), b"other bytes").unwrap();
    assert_eq!(hub::verify(&found).unwrap().1.len(), 1);
}

#[test]
fn small_files_are_summed_as_git_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greeting");
    std::fs::write(&path, "hello\n").unwrap();
    // `printf 'hello\n' | git hash-object --stdin`
    let blob = Checksum::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".to_owned());
    blob.check(&path).unwrap();
    std::fs::write(&path, "hallo\n").unwrap();
    blob.check(&path).unwrap_err();
}

fn remote(path: &str, size: u64) -> RemoteFile {
    RemoteFile { path: path.to_owned(), size, checksum: Checksum::Sha256("0".repeat(64)) }
}

fn chosen(paths: &[&str]) -> Vec<String> {
    let files: Vec<RemoteFile> = paths.iter().map(|path| remote(path, 1)).collect();
    hub::wanted(&files).into_iter().map(|file| file.path).collect()
}

#[test]
fn of_flux_only_the_parts_are_fetched() {
    let kept = [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors.index.json",
        "text_encoder_2/model-00001-of-00001.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer_2/spiece.model",
        "tokenizer_2/tokenizer.json",
        "scheduler/scheduler_config.json",
    ];
    let left = ["flux1-dev.safetensors", "ae.safetensors", "README.md", "dev_grid.jpg", "config.json"];
    let mut got = chosen(&[&kept[..], &left[..]].concat());
    let mut kept = kept.map(ToOwned::to_owned).to_vec();
    got.sort();
    kept.sort();
    assert_eq!(got, kept);
}

#[test]
fn halves_are_preferred_and_copies_in_other_formats_left() {
    let got = chosen(&[
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_flax_model.msgpack",
        "unet/openvino_model.xml",
        "unet/model.onnx",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ]);
    assert_eq!(
        got,
        [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/model.fp16-00001-of-00002.safetensors",
            "text_encoder/model.fp16-00002-of-00002.safetensors",
            "text_encoder/model.safetensors.index.fp16.json",
        ]
    );
}

#[test]
fn of_a_lone_net_the_usual_name_is_fetched() {
    let got = chosen(&[
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "sdxl_vae.safetensors",
        "sdxl.vae.pt",
    ]);
    assert_eq!(got, ["config.json", "diffusion_pytorch_model.safetensors"]);
    assert_eq!(chosen(&["weights.safetensors", "config.json"]), ["config.json", "weights.safetensors"]);
}

#[tokio::test]
async fn a_listing_cannot_name_files_outside() {
    for path in ["../evil.json", "a/../../evil.json", "/etc/evil.json", "a\\b.json"] {
        let files = HashMap::from([(path.to_owned(), b"{}".to_vec())]);
        let stand = Arc::new(Stand { files, ..Stand::default() });
        let hub = hub_at(&stand_at(stand).await);
        let error = hub::list(&hub, "org/name", "main").await.unwrap_err();
        assert!(matches!(error, HubError::Unexpected { .. }), "{path}: {error}");
    }
    let hub = hub_at("http://127.0.0.1:9");
    assert!(matches!(hub::list(&hub, "../name", "main").await, Err(HubError::NotAnId(_))));
    assert!(Place::in_cache(Path::new("/tmp"), "org/..").is_err());
}

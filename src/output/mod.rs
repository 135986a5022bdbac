//! From the engine's images to the JSON object that is delivered.
//!
//! [`ahead`] encodes pictures while the engine goes on, [`document`] writes the object, [`size_guard`] decides what to give up when it would not fit
//! through the platform, [`bucket`] stores images elsewhere. Knows no engines and no wire protocol; called by
//! [`crate::worker`] once a run has ended.

pub mod ahead;
pub mod bucket;
pub mod document;
pub mod format;
pub mod size_guard;

use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::value::RawValue;

pub use ahead::Ahead;
pub use bucket::{Bucket, BucketError};
pub use document::{Document, Picture};

use crate::engine::Artifacts;
use crate::input::Plan;
use crate::job::{Failure, FailureKind, JobId};

/// Writes the answer without a limit on its size. Encodes on up to three threads and blocks until they are done.
///
/// # Errors
/// [`FailureKind::Unserialisable`] if an image cannot be encoded or a number is not finite.
pub fn render(artifacts: Artifacts, plan: &Plan) -> Result<Box<RawValue>, Failure> {
    Document::encode(artifacts, plan)?.write()
}

/// Writes the answer so that the body `{"output":…}` around it has at most `limit` bytes.
///
/// Images go to `bucket` if it asks for all of them or the body would be too large; else intermediates are dropped and
/// the final image is encoded more tightly. What is encoded `ahead` is waited for. Whatever was given up is named in the answer's `warnings`. Encoding runs on
/// blocking threads.
///
/// # Errors
/// [`FailureKind::ResultTooLarge`] if nothing helps, [`FailureKind::Unserialisable`] as [`render`].
pub async fn render_for_delivery(
    artifacts: Artifacts,
    (plan, ahead): (&Plan, Arc<Ahead>),
    job_id: &JobId,
    limit: Option<u64>,
    bucket: Option<&Bucket>,
) -> Result<Box<RawValue>, Failure> {
    let facts = document::Facts::of(plan);
    let mut document = blocking(move || Document::encode_with(artifacts, facts, &ahead)).await?;
    if let Some(bucket) = bucket
        && (bucket.always() || size_guard::is_too_large(&document, limit)?)
    {
        upload(&mut document, job_id, bucket).await;
    }
    blocking(move || {
        size_guard::shrink(&mut document, limit)?;
        document.write()
    })
    .await
}

/// Replaces all pictures by addresses, or, if one cannot be stored, none of them.
async fn upload(document: &mut Document, job_id: &JobId, bucket: &Bucket) {
    let uploads = document.pictures.iter().map(|picture| {
        let file = picture.file.clone();
        async move { bucket.upload(job_id, picture.name, picture.format, file).await }
    });
    match try_join_all(uploads).await {
        Ok(urls) => document.move_to(urls),
        Err(error) => {
            tracing::warn!(job = %job_id, %error, "images not uploaded");
            document.warnings.push(format!("images could not be uploaded to the bucket: {error}"));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(Failure::new(FailureKind::Unserialisable, format!("writing the result failed: {error}")))
        }
    }
}

//! A source of exactly one job: a file, or `--test_input`.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{JobSource, Taken};
use crate::job::Envelope;

/// Gives one job, then is exhausted.
pub struct OneJob(Option<Envelope>);

impl OneJob {
    /// A source of `envelope`.
    pub fn new(envelope: Envelope) -> Self {
        Self(Some(envelope))
    }
}

#[async_trait]
impl JobSource for OneJob {
    async fn take(&mut self, _want: usize, _busy: bool, _shutdown: &CancellationToken) -> Taken {
        match self.0.take() {
            Some(envelope) => Taken::Jobs(vec![envelope]),
            None => Taken::Exhausted,
        }
    }
}

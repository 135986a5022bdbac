//! SIGTERM and SIGINT: the first asks for shutdown, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that fires at the first signal. Installed before the first job can be taken.
///
/// # Errors
/// The system's, if it refuses a signal handler.
pub(super) fn shutdown_token() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        for second in [false, true] {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if second {
                tracing::error!("{name} again: ending at once, jobs in hand are lost");
                // The shell's convention for a process that a signal ended.
                std::process::exit(128 + number);
            }
            tracing::info!("{name}: taking no further jobs, finishing what is in hand");
            fired.cancel();
        }
    });
    Ok(token)
}

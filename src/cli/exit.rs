//! How the process ends. Documented in `marquee --help` and the README: change no number.

use std::process::ExitCode;

use crate::worker::End;

/// Exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Ok,
    /// 1: the job failed, the worker is unfit, or there was nothing to run.
    Failed,
    /// 2: wrong arguments or configuration (as clap).
    Usage,
    /// 3: the engine or its device is beyond repair; replace the worker.
    Poisoned,
    /// 4: the grace period ran out before every result was delivered.
    GraceExceeded,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Poisoned => 3,
            Self::GraceExceeded => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<End> for Exit {
    fn from(end: End) -> Self {
        match end {
            End::Drained | End::Refresh => Self::Ok,
            End::Poisoned(_) => Self::Poisoned,
            End::GraceExceeded(_) => Self::GraceExceeded,
        }
    }
}

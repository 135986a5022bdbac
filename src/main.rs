//! The `marquee` program: arguments, configuration, log lines, then whatever was asked for.

use std::process::ExitCode;

use clap::Parser;
use marquee::cli::{self, Args, Exit};
use marquee::config::Config;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut config = match Config::from_env() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Exit::Usage.into();
        }
    };
    args.override_config(&mut config);
    let command = args.command(&config);
    cli::init_log(&command, &config);
    // Two threads carry the sockets; the engine has its own, and CPU work goes to the blocking pool.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let exit = match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(cli::dispatch(command, config));
            // A hung engine or an abandoned request must not keep the process alive.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            eprintln!("cannot start the I/O threads: {error}");
            Exit::Failed
        }
    };
    exit.into()
}

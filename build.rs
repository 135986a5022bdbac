//! Feature `cuda`: compiles `src/cuda/kernels/*.cu` (nvcc) and `src/cuda/shim/*.cpp` (the host's C++ compiler) into one
//! static library with a C interface. Without the feature it does nothing.
//!
//! Kernels travel as machine code for the cards in `MARQUEE_CUDA_ARCHS` (default `80,86,89,90a`), and as PTX of the first
//! for every other card, so that nothing is compiled at run time on a card that is in the list.
//!
//! Reads `CUDA_HOME` (or `CUDA_PATH`, or /usr/local/cuda), `NVCC`, and `MARQUEE_CUDNN_INCLUDE`: folders of cuDNN's and its
//! frontend's headers, separated by colons (`scripts/setup_cudnn.sh`). cuDNN is opened at run time, not linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(error) = cuda::build() {
        println!("cargo::error={error}");
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::error::Error;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;
    use std::time::SystemTime;
    use std::{env, fs, thread};

    type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

    const SOURCES: &str = "src/cuda";
    const ARCHITECTURES: &str = "80,86,89,90a";

    pub(super) fn build() -> Result<()> {
        for variable in ["CUDA_HOME", "CUDA_PATH", "NVCC", "MARQUEE_CUDNN_INCLUDE", "MARQUEE_CUDA_ARCHS"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        println!("cargo::rerun-if-changed={SOURCES}/kernels");
        println!("cargo::rerun-if-changed={SOURCES}/shim");
        let toolkit = ["CUDA_HOME", "CUDA_PATH"]
            .into_iter()
            .find_map(|name| env::var_os(name).map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("/usr/local/cuda"));
        let out = PathBuf::from(env::var("OUT_DIR")?);
        let sources = Sources::list()?;
        let objects = sources.compile(&kernel_compiler(&toolkit)?, &shim_compiler(&toolkit)?, &out)?;
        let mut archive = cc::Build::new();
        archive.cpp(true).objects(objects).try_compile("marquee_cuda")?;
        println!("cargo::rustc-link-search=native={}", toolkit.join("lib64").display());
        println!("cargo::rustc-link-lib=dylib=cublasLt");
        // cuDNN's frontend names it in an engine that is never chosen here; candle links it anyway.
        println!("cargo::rustc-link-lib=dylib=nvrtc");
        // The kernels' launcher; static, so that it is of the version that nvcc was.
        println!("cargo::rustc-link-lib=static=cudart_static");
        for library in ["rt", "dl", "pthread"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        Ok(())
    }

    struct Sources {
        kernels: Vec<PathBuf>,
        shims: Vec<PathBuf>,
        /// Youngest header (or this file): an object older than it is stale.
        headers: SystemTime,
    }

    impl Sources {
        fn list() -> Result<Self> {
            let mut list = Self {
                kernels: Vec::new(),
                shims: Vec::new(),
                headers: fs::metadata("build.rs")?.modified()?,
            };
            for folder in ["kernels", "shim"] {
                for entry in fs::read_dir(Path::new(SOURCES).join(folder))? {
                    let entry = entry?;
                    let path = entry.path();
                    match path.extension().and_then(|extension| extension.to_str()) {
                        Some("cu") => list.kernels.push(path),
                        Some("cpp") => list.shims.push(path),
                        _ => list.headers = list.headers.max(entry.metadata()?.modified()?),
                    }
                }
            }
            list.kernels.sort();
            list.shims.sort();
            Ok(list)
        }

        /// Compiles what is stale, on as many cores as cargo grants.
        fn compile(&self, kernel: &[String], shim: &[String], out: &Path) -> Result<Vec<PathBuf>> {
            // Another list of cards or headers makes other objects.
            let mark = out.join("commands");
            let commands = format!("{kernel:?}\n{shim:?}");
            let same = fs::read_to_string(&mark).is_ok_and(|before| before == commands);
            let mut objects = Vec::new();
            let mut stale = Vec::new();
            for (source, command) in self
                .shims
                .iter()
                .map(|source| (source, shim))
                .chain(self.kernels.iter().map(|source| (source, kernel)))
            {
                let name =
                    source.file_name().and_then(|name| name.to_str()).ok_or("a source without a name")?;
                let object = out.join(format!("{name}.o"));
                let needed = fs::metadata(source)?.modified()?.max(self.headers);
                let done = fs::metadata(&object).and_then(|object| object.modified());
                if !same || done.map_or(true, |done| done < needed) {
                    stale.push((source, command, object.clone()));
                }
                objects.push(object);
            }
            let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
            let queue = Mutex::new(stale.into_iter());
            let next = || queue.lock().ok().and_then(|mut queue| queue.next());
            thread::scope(|scope| {
                let workers: Vec<_> = (0..jobs)
                    .map(|_| {
                        scope.spawn(|| -> Result<()> {
                            while let Some((source, command, object)) = next() {
                                run(command, source, &object)?;
                            }
                            Ok(())
                        })
                    })
                    .collect();
                workers.into_iter().try_for_each(|worker| {
                    worker.join().unwrap_or_else(|_| Err("a compiling thread failed".into()))
                })
            })?;
            fs::write(mark, commands)?;
            Ok(objects)
        }
    }

    fn run(command: &[String], source: &Path, object: &Path) -> Result<()> {
        let (program, arguments) = command.split_first().ok_or("no compiler")?;
        let output = Command::new(program)
            .args(arguments)
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(object)
            .output()
            .map_err(|error| format!("{program} does not start: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        // Cargo shows one line an error; the compiler's own go to the build log.
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        // A half-written object must not look finished.
        let _ = fs::remove_file(object);
        let first = String::from_utf8_lossy(&output.stderr)
            .lines()
            .find(|line| line.contains("error"))
            .unwrap_or("see the build log")
            .to_owned();
        Err(format!("{} does not compile: {first}", source.display()).into())
    }

    fn kernel_compiler(toolkit: &Path) -> Result<Vec<String>> {
        let nvcc = env::var("NVCC").unwrap_or_else(|_| toolkit.join("bin/nvcc").display().to_string());
        let mut command: Vec<String> = [
            &nvcc,
            "-std=c++17",
            "-O3",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "--expt-relaxed-constexpr",
        ]
        .map(str::to_owned)
        .to_vec();
        let list = env::var("MARQUEE_CUDA_ARCHS").unwrap_or_else(|_| ARCHITECTURES.to_owned());
        for (index, architecture) in list.split(',').map(str::trim).enumerate() {
            let digits = architecture.trim_end_matches(|c: char| c.is_ascii_lowercase());
            if digits.len() < 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!(
                    "MARQUEE_CUDA_ARCHS={list}: expected compute capabilities such as {ARCHITECTURES}, found {architecture:?}"
                )
                .into());
            }
            command.push("-gencode".to_owned());
            // PTX of the accelerated kind (90a) runs on that card alone, so the first entry gives the portable one.
            let code = if index == 0 && digits == architecture {
                format!("[sm_{architecture},compute_{architecture}]")
            } else {
                format!("sm_{architecture}")
            };
            command.push(format!("arch=compute_{architecture},code={code}"));
        }
        Ok(command)
    }

    fn shim_compiler(toolkit: &Path) -> Result<Vec<String>> {
        let mut folders: Vec<PathBuf> = env::var_os("MARQUEE_CUDNN_INCLUDE")
            .map(|list| env::split_paths(&list).collect())
            .unwrap_or_default();
        folders.push(toolkit.join("include"));
        folders.push("/usr/include".into());
        folders.push("/usr/include/x86_64-linux-gnu".into());
        for header in ["cuda_runtime_api.h", "cudnn.h", "cudnn_frontend.h"] {
            if !folders.iter().any(|folder| folder.join(header).exists()) {
                return Err(format!(
                    "{header} is in none of {folders:?}: run `eval \"$(scripts/setup_cuda.sh)\"` and \
                     `eval \"$(scripts/setup_cudnn.sh)\"`, or name its folder in MARQUEE_CUDNN_INCLUDE"
                )
                .into());
            }
        }
        let compiler = cc::Build::new().cpp(true).warnings(false).try_get_compiler()?;
        let mut command = vec![compiler.path().display().to_string()];
        command.extend(["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-w"].map(str::to_owned));
        // The system's own folders last and only by default, or they hide the compiler's.
        for folder in folders.iter().filter(|folder| !folder.starts_with("/usr/include")) {
            command.push("-isystem".to_owned());
            command.push(folder.display().to_string());
        }
        Ok(command)
    }
}

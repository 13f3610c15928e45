//! Builds the CUDA kernels for the CPU: every `kernels/cuda/*.cu`, unchanged, with the runtime beside this crate, into a
//! `libcuda.so` (and `libnvidia-ml.so.1`) that the CUDA backend loads as if it were the NVIDIA driver's. For tests only; needs
//! a C++ compiler (g++ 12 or clang++ 15, for half precision).
//!
//! Environment:
//! - `QCONV_CUDA_SANITIZE=address|thread|rounding`: with the address and undefined-behaviour sanitizers, with the race detector (their
//!   runtime has to be loaded before the test program: `kernels/cuda/sanitize.sh` does it), or with a device's roundings.
//! - `QCONV_CUDA_TESTS=required`: a machine without a compiler fails instead of skipping.
//! - `CXX`: the compiler.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// The folder with `libcuda.so`, built if it is not there or something that it is made of has changed. `None`: this machine
/// has no C++ compiler; a line on standard error says that the tests are skipped.
///
/// # Panics
/// If the kernels do not compile, or there is no compiler and `QCONV_CUDA_TESTS` is `required`.
pub fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(|| build().unwrap_or_else(|e| panic!("the kernels were not built for the CPU: {e}"))).as_deref()
}

/// What the sanitizers are called, here and for the compiler.
struct Sanitizer {
    name: &'static str,
    /// For kernels and for linking.
    flags: &'static [&'static str],
    /// For the runtime, which is never instrumented itself.
    define: &'static str,
}

const SANITIZERS: &[Sanitizer] = &[
    Sanitizer { name: "none", flags: &["-O2"], define: "-DSTAND_IN_PLAIN" },
    Sanitizer {
        name: "address",
        flags: &["-O1", "-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"],
        define: "-DSTAND_IN_ADDRESS",
    },
    Sanitizer { name: "thread", flags: &["-O1", "-fsanitize=thread"], define: "-DSTAND_IN_THREAD" },
    // No sanitizer, but kernels that round where a device may.
    Sanitizer {
        name: "rounding",
        flags: &["-O2", "-ffp-contract=fast", "-DSTAND_IN_ROUNDING"],
        define: "-DSTAND_IN_PLAIN",
    },
];

fn build() -> Result<Option<PathBuf>, String> {
    let wanted = env::var("QCONV_CUDA_SANITIZE").unwrap_or_else(|_| "none".into());
    let Some(sanitizer) = SANITIZERS.iter().find(|s| s.name == wanted) else {
        return Err(format!("QCONV_CUDA_SANITIZE is {wanted}; none, address, thread and rounding are possible"));
    };
    let Some((compiler, version)) = compiler() else {
        if env::var("QCONV_CUDA_TESTS").is_ok_and(|v| v == "required") {
            return Err("QCONV_CUDA_TESTS is `required`, and there is no C++ compiler (CXX, g++, clang++)".into());
        }
        // Straight to the handle: the test harness captures what print macros write.
        let line = "SKIPPED: no C++ compiler here (CXX, g++, clang++): CUDA kernels are not tested on the CPU\n";
        let _ = io::stderr().write_all(line.as_bytes());
        return Ok(None);
    };
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("kernels/cuda/cpu has a parent");
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => cuda.join("../../target"),
    };
    let folder = target.join("cuda-on-cpu").join(sanitizer.name);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    // One process at a time; the lock goes with the file handle.
    let lock = fs::File::create(folder.join("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;

    let job = Job { compiler, version, sanitizer, cuda, folder: &folder };
    job.run().map_err(|e| format!("{}: {e}", job.compiler))?;
    Ok(Some(fs::canonicalize(&folder).map_err(|e| e.to_string())?))
}

/// The compiler's name and what it says of itself.
fn compiler() -> Option<(String, String)> {
    let named = env::var("CXX").ok();
    let candidates = named.as_deref().into_iter().chain(["g++", "clang++"]);
    candidates.map(str::to_owned).find_map(|name| {
        let said = Command::new(&name).arg("--version").output().ok().filter(|o| o.status.success())?;
        Some((name, String::from_utf8_lossy(&said.stdout).into_owned()))
    })
}

struct Job<'a> {
    compiler: String,
    version: String,
    sanitizer: &'static Sanitizer,
    cuda: &'a Path,
    folder: &'a Path,
}

impl Job<'_> {
    fn run(&self) -> Result<(), String> {
        let headers = self.headers()?;
        let mut sources = files(self.cuda, &["cu"])?;
        sources.extend(files(&self.cuda.join("cpu"), &["cpp", "cu"])?);
        let mut objects = Vec::new();
        let mut stale = Vec::new();
        let mut all = DefaultHasher::new();
        for source in &sources {
            let mut key = DefaultHasher::new();
            (&self.version, self.arguments(source), headers, read(source)?).hash(&mut key);
            let key = key.finish();
            key.hash(&mut all);
            let object = self.folder.join(source.file_name().expect("a file")).with_extension("o");
            if !kept(&object, key) {
                stale.push((source, object.clone(), key));
            }
            objects.push(object);
        }
        let width = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            // Neighbours are of like size: each thread takes every so many-th.
            let threads: Vec<_> = (0..width)
                .map(|first| {
                    scope.spawn({
                        let stale = &stale;
                        move || stale.iter().skip(first).step_by(width).try_for_each(|s| self.compile(s))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().expect("no panic while compiling"))
        })?;
        let library = self.folder.join("libcuda.so");
        let key = all.finish();
        if !kept(&library, key) {
            // Under another name first: a test that runs has the old one mapped.
            let new = self.folder.join("libcuda.so.new");
            let mut command = Command::new(&self.compiler);
            command
                .args(self.sanitizer.flags)
                .args(["-shared", "-Wl,-soname,libcuda.so", "-o"])
                .arg(&new)
                .args(&objects);
            carry_out(&mut command)?;
            fs::rename(&new, &library).map_err(|e| e.to_string())?;
            keep(&library, key)?;
        }
        // The driver's management library: the same, under its name.
        match std::os::unix::fs::symlink("libcuda.so", self.folder.join("libnvidia-ml.so.1")) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e.to_string()),
            _ => Ok(()),
        }
    }

    fn arguments(&self, source: &Path) -> Vec<&str> {
        let mut arguments = vec!["-std=c++17", "-g1", "-fPIC", "-march=native", "-Wall", "-Wextra", "-Werror"];
        if source.extension().is_some_and(|e| e == "cu") {
            arguments.extend(["-DQCONV_ON_CPU", "-Wno-unknown-pragmas", "-ffp-contract=off", "-x", "c++"]);
            arguments.extend(self.sanitizer.flags);
        } else {
            arguments.extend(["-O2", "-fvisibility=hidden", self.sanitizer.define]);
        }
        arguments
    }

    fn compile(&self, (source, object, key): &(&PathBuf, PathBuf, u64)) -> Result<(), String> {
        let mut command = Command::new(&self.compiler);
        command.args(self.arguments(source)).arg("-I").arg(self.cuda).arg("-c").arg(source).arg("-o").arg(object);
        carry_out(&mut command)?;
        keep(object, *key)
    }

    /// One number for all headers: a change in any builds everything anew.
    fn headers(&self) -> Result<u64, String> {
        let mut all = DefaultHasher::new();
        let mut folders = vec![self.cuda.to_owned()];
        while let Some(folder) = folders.pop() {
            for file in files(&folder, &["h", "cuh"])? {
                (&file, read(&file)?).hash(&mut all);
            }
            let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
            folders.extend(entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()));
            folders.sort();
        }
        Ok(all.finish())
    }
}

/// Files of a folder with one of these endings, sorted.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    found.retain(|f| f.extension().is_some_and(|e| endings.iter().any(|w| e == *w)));
    found.sort();
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// Where the number that a file was made from is noted.
fn note(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".key");
    PathBuf::from(name)
}

fn kept(file: &Path, key: u64) -> bool {
    file.exists() && fs::read_to_string(note(file)).is_ok_and(|noted| noted == key.to_string())
}

fn keep(file: &Path, key: u64) -> Result<(), String> {
    fs::write(note(file), key.to_string()).map_err(|e| e.to_string())
}

fn carry_out(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr)))
}

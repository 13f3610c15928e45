use super::*;
use crate::error::exit_code;
use std::process::Command;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The error's sentence, after a check of its exit code.
fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>, code: u8) -> String {
    let e = result.unwrap_err();
    assert_eq!(exit_code(&e), code, "{e:#}");
    format!("{e:#}")
}

#[test]
fn appears_whole_with_zeros_where_nothing_was_written() {
    let dir = folder();
    let path = dir.path().join("a.gguf");
    let out = OutputFile::create(&path, 20, false).unwrap();
    assert_eq!(names(dir.path()), [".a.gguf.part"]);
    std::thread::scope(|s| {
        s.spawn(|| out.write_at(10, b"world").unwrap());
        s.spawn(|| out.write_at(0, b"hello").unwrap());
    });
    assert!(!path.exists());
    out.finish().unwrap();
    assert_eq!(names(dir.path()), ["a.gguf"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"hello\0\0\0\0\0world\0\0\0\0\0");
}

#[test]
fn leaves_nothing_when_dropped_and_keeps_what_was_there() {
    let dir = folder();
    let path = dir.path().join("a");
    std::fs::write(&path, "old").unwrap();
    let out = OutputFile::create(&path, 3, true).unwrap();
    out.write_at(0, b"new").unwrap();
    drop(out);
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn replaces_only_with_force() {
    let dir = folder();
    let path = dir.path().join("a");
    std::fs::write(&path, "a much longer old file").unwrap();
    assert!(refusal(write_whole(&path, b"new", false), 2).contains("--force"));
    write_whole(&path, b"new", true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_file_that_appears_meanwhile_is_kept() {
    let dir = folder();
    let path = dir.path().join("a");
    let out = OutputFile::create(&path, 0, false).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    assert!(refusal(out.finish(), 2).contains("appeared"));
    assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn leftovers_of_a_killed_run_are_overwritten() {
    let dir = folder();
    std::fs::write(dir.path().join(".a.part"), "left behind, longer than the new file").unwrap();
    write_whole(dir.path().join("a"), b"new", false).unwrap();
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"new");
}

#[test]
fn two_writers_of_one_file_are_refused() {
    let dir = folder();
    let first = OutputFile::create(dir.path().join("a"), 1, false).unwrap();
    assert!(refusal(OutputFile::create(dir.path().join("a"), 1, false), 2).contains("another process"));
    first.finish().unwrap();
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn impossible_destinations_are_the_callers_fault() {
    let dir = folder();
    let missing = refusal(write_whole(dir.path().join("no/such/a"), b"", false), 2);
    assert!(missing.contains("create the folder first"), "{missing}");
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(refusal(write_whole(dir.path().join("file/a"), b"", false), 2).contains("is no folder"));
    assert!(refusal(write_whole(dir.path(), b"", true), 2).contains("is a folder"));
    assert!(refusal(write_whole(dir.path().join(".."), b"", true), 2).contains("names no file"));
    std::fs::create_dir(dir.path().join(".b.part")).unwrap();
    assert!(refusal(write_whole(dir.path().join("b"), b"", true), 2).contains("in the way"));
    #[cfg(unix)]
    assert!(refusal(write_whole("/dev/null", b"", true), 2).contains("is a device"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_inputs_protected_under_every_name() {
    use std::os::unix::fs::symlink;
    let dir = folder();
    let [real, link, hard, nowhere] = ["real", "link", "hard", "nowhere"].map(|n| dir.path().join(n));
    std::fs::write(&real, "old").unwrap();
    symlink(&real, &link).unwrap();
    symlink("missing", &nowhere).unwrap();
    std::fs::hard_link(&real, &hard).unwrap();

    for input in [&real, &link, &hard, &dir.path().to_owned()] {
        let out = OutputFile::create(&link, 3, true).unwrap();
        assert!(refusal(out.protect(&[input]), 2).contains("same file as the input"));
    }
    assert!(protect(&dir.path().join("new"), &[dir.path(), &real, Path::new("no/such")]).is_ok());

    assert!(refusal(write_whole(&link, b"new", false), 2).contains("--force"));
    assert!(refusal(write_whole(&nowhere, b"new", true), 2).contains("leads nowhere"));
    write_whole(&link, b"new", true).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_too_small_is_found_before_the_first_byte() {
    let dir = folder();
    let what = refusal(OutputFile::create(dir.path().join("a"), 1 << 60, false), 1);
    assert!(what.contains("1152921504606846976 bytes (1152922 TB) are needed"), "{what}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn writes_beyond_the_layout_are_refused() {
    let dir = folder();
    let out = OutputFile::create(dir.path().join("a"), 4, false).unwrap();
    assert!(out.write_at(2, b"abc").is_err());
    assert!(out.write_at(u64::MAX, b"abc").is_err());
}

#[test]
fn a_folder_as_output_takes_the_default_name() {
    let dir = folder();
    assert_eq!(or_in_folder(dir.path(), "x.gguf"), dir.path().join("x.gguf"));
    assert_eq!(or_in_folder(Path::new("not/yet/"), "x.gguf"), Path::new("not/yet/x.gguf"));
    assert_eq!(or_in_folder(Path::new("y.gguf"), "x.gguf"), Path::new("y.gguf"));
}

/// Runs the test `name` of this file in another process, told so by `QCONV_TEST_IN`.
fn again(name: &str, within: &Path, before: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{before} exec \"$0\" --exact --nocapture output::tests::{name}");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env("QCONV_TEST_IN", within);
    command
}

fn told() -> Option<PathBuf> {
    std::env::var_os("QCONV_TEST_IN").map(PathBuf::from)
}

#[cfg(unix)]
#[test]
fn signals_remove_the_unfinished_file() {
    if let Some(dir) = told() {
        let _out = OutputFile::create(dir.join("a"), 1000, false).unwrap();
        std::fs::write(dir.join("ready"), "").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    for (signal, code, left) in
        [("INT", Some(130), &["ready"][..]), ("TERM", Some(130), &["ready"]), ("KILL", None, &[".a.part", "ready"])]
    {
        let dir = folder();
        let mut child = again("signals_remove_the_unfinished_file", dir.path(), "").spawn().unwrap();
        while !dir.path().join("ready").exists() {
            assert!(child.try_wait().unwrap().is_none(), "ended before it was ready");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        assert_eq!(names(dir.path()), left, "{signal}");
        write_whole(dir.path().join("a"), b"next", false).unwrap();
        assert_eq!(names(dir.path()), ["a", "ready"], "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn the_shells_limit_on_file_sizes_is_no_death_by_signal() {
    if let Some(dir) = told() {
        let what = refusal(OutputFile::create(dir.join("a"), 1 << 20, false), 1);
        assert!(what.contains("ulimit -f"), "{what}");
        return;
    }
    let dir = folder();
    let done =
        again("the_shells_limit_on_file_sizes_is_no_death_by_signal", dir.path(), "ulimit -f 8;").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert!(names(dir.path()).is_empty());
}

/// Exit code 2 before 1: more space would not help who has to say --force.
#[test]
fn a_set_that_exists_is_refused_for_that_before_it_is_for_its_size() {
    let dir = folder();
    let path = dir.path().join("a");
    std::fs::write(&path, "old").unwrap();
    let what = refusal(OutputSet::create(&[(path.clone(), u64::MAX / 2)], Start::default()), 2);
    assert!(what.contains("--force"), "{what}");
    let what = refusal(OutputSet::create(&[(path, u64::MAX / 2)], Start { force: true, ..Start::default() }), 1);
    assert!(what.contains("the disk is too full"), "{what}");
}

/// A file system of 1 MB in a name space of its own; where the system allows none, the test says so and ends.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_half_way_leaves_nothing() {
    if let Some(dir) = told() {
        let path = dir.join("a");
        // Two outputs that fit each alone: the space is taken when the first is created, not when it is written.
        let first = OutputFile::create(dir.join("b"), 700_000, false).unwrap();
        let what = refusal(OutputFile::create(&path, 700_000, false), 1);
        assert!(what.contains("700000 bytes (700 kB) are needed"), "{what}");
        drop(first);
        // As on a file system without preallocation: the space vanishes between the check and the write.
        let out = OutputFile::create(&path, 700_000, false).unwrap();
        File::options().write(true).open(out.part()).unwrap().set_len(0).unwrap();
        std::fs::write(dir.join("thief"), vec![1; 600_000]).unwrap();
        let what = refusal(out.write_at(0, &vec![1; 700_000]), 1);
        assert!(what.contains("the disk is too full"), "{what}");
        drop(out);
        assert_eq!(names(&dir), ["thief"]);
        return;
    }
    let dir = folder();
    let allowed = Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|s| s.success());
    if !allowed {
        eprintln!("skipped: this system allows no mounts in a user name space");
        return;
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=1M none \"$QCONV_TEST_IN\" && \
        exec \"$0\" --exact --nocapture output::tests::a_disk_that_fills_up_half_way_leaves_nothing";
    command.args(["-Urm", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).env("QCONV_TEST_IN", dir.path());
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

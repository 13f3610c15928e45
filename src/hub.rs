//! Models that Hugging Face's tools keep on this machine: `models--ORG--NAME/snapshots/COMMIT` in the hub's cache.
//!
//! What a command takes as a model may be a path, or a name as the hub uses it (`TinyLlama/TinyLlama-1.1B-Chat-v1.0`) of which
//! a snapshot lies in the cache. Nothing is downloaded. The layout is that of huggingface_hub ("Understand caching").

use crate::error::caller;
use anyhow::Result;
use qconv_formats::Error;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where the model is that the caller named: the path itself; the snapshot of a repository's folder in the cache; or that of the
/// repository with this name.
///
/// Errors: there is neither; a repository has several snapshots, and none is `main`.
pub fn locate(named: &Path) -> Result<PathBuf> {
    locate_in(named, cache(|name| env::var_os(name).filter(|v| !v.is_empty()), env::home_dir()).as_deref())
}

/// The model's name, where the folder is a snapshot in a cache: folders of snapshots have a commit's digest for a name.
pub fn name(folder: &Path) -> Option<&str> {
    let snapshots = folder.parent()?;
    let (_, name) = id(snapshots.parent()?).filter(|_| snapshots.ends_with("snapshots"))?;
    Some(name)
}

/// Organization (empty where there is none) and name from `models--ORG--NAME`.
fn id(repository: &Path) -> Option<(&str, &str)> {
    let id = repository.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(id.split_once("--").unwrap_or(("", id)))
}

/// The cache's folder, as huggingface_hub finds it.
fn cache(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    named.map(PathBuf::from).or_else(|| {
        let all = variable("HF_HOME").map(PathBuf::from);
        let caches = || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cache")));
        Some(all.or_else(|| Some(caches()?.join("huggingface")))?.join("hub"))
    })
}

fn locate_in(named: &Path, cache: Option<&Path>) -> Result<PathBuf> {
    match fs::metadata(named) {
        Ok(found) if found.is_dir() && id(named).is_some() && named.join("snapshots").is_dir() => snapshot(named),
        Ok(_) => Ok(named.to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => match named.to_str().and_then(repository) {
            Some(repository) => {
                let kept = cache.map(|cache| cache.join(repository)).filter(|kept| kept.join("snapshots").is_dir());
                kept.map_or_else(|| Err(nowhere(named, cache)), |kept| snapshot(&kept))
            }
            None => Err(Error::io(named)(e).into()),
        },
        Err(e) => Err(Error::io(named)(e).into()),
    }
}

/// The folder of a repository in the cache, if the text may be a model's name: `ORG/NAME`, and no file of a kind that models have.
fn repository(text: &str) -> Option<String> {
    let (org, name) = text.split_once('/')?;
    let sound = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let file = [".gguf", ".safetensors", ".json", ".bin"].iter().any(|end| name.ends_with(end));
    (sound(org) && sound(name) && !file).then(|| format!("models--{org}--{name}"))
}

fn nowhere(named: &Path, cache: Option<&Path>) -> anyhow::Error {
    let named = named.display();
    let cache = cache.map_or_else(String::new, |cache| format!(" ({})", cache.display()));
    caller(format!(
        "{named}: there is no such file or folder, nor a model of this name in Hugging Face's cache{cache}; qconv downloads \
         nothing: `hf download {named}` does"
    ))
}

/// The snapshot of `main`, or the only one.
fn snapshot(repository: &Path) -> Result<PathBuf> {
    let snapshots = repository.join("snapshots");
    if let Ok(commit) = fs::read_to_string(repository.join("refs").join("main")) {
        let main = snapshots.join(commit.trim());
        if !commit.trim().is_empty() && main.is_dir() {
            return Ok(main);
        }
    }
    let all = fs::read_dir(&snapshots).map_err(Error::io(&snapshots))?;
    let mut all: Vec<PathBuf> = all.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => {
            Err(caller(format!("{}: there is no snapshot in it; download the model again", snapshots.display())))
        }
        (Some(_), others) => {
            let what = format!("holds {} snapshots, and none of them is main; give the path of one", others + 1);
            Err(caller(format!("{}: {what}", snapshots.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn with_snapshots(commits: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--acme--Prose-4M-Chat");
        fs::create_dir_all(repository.join("snapshots")).unwrap();
        for commit in commits {
            fs::create_dir(repository.join("snapshots").join(commit)).unwrap();
        }
        (cache, repository)
    }

    #[test]
    fn a_name_means_its_snapshot() {
        let (cache, repository) = with_snapshots(&[COMMIT]);
        let want = repository.join("snapshots").join(COMMIT);
        assert_eq!(locate_in(Path::new("acme/Prose-4M-Chat"), Some(cache.path())).unwrap(), want);
        assert_eq!(locate_in(&repository, None).unwrap(), want);
        assert_eq!(locate_in(&want, None).unwrap(), want);
        assert_eq!(name(&want), Some("Prose-4M-Chat"));
    }

    #[test]
    fn of_several_snapshots_main_counts() {
        let (_cache, repository) = with_snapshots(&["aa", "bb", "cc"]);
        let refused = locate_in(&repository, None).unwrap_err().to_string();
        assert!(refused.contains("holds 3 snapshots"), "{refused}");
        fs::create_dir(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "bb\n").unwrap();
        assert_eq!(locate_in(&repository, None).unwrap(), repository.join("snapshots/bb"));
        // A commit of which nothing was downloaded.
        fs::write(repository.join("refs/main"), "dd").unwrap();
        assert!(locate_in(&repository, None).is_err());
    }

    #[test]
    fn what_is_nowhere_is_refused_with_what_to_do() {
        let (cache, repository) = with_snapshots(&[]);
        let said = |named: &str| locate_in(Path::new(named), Some(cache.path())).unwrap_err().to_string();
        assert!(said("acme/Other-7B").contains("`hf download acme/Other-7B`"), "{}", said("acme/Other-7B"));
        assert!(said("acme/Prose-4M-Chat").contains("there is no snapshot in it"));
        for path in ["out/model.gguf", "model", "a/b/c", "../x", "./x", "/tmp-that-is-not/x"] {
            assert!(!said(path).contains("download"), "{path}: {}", said(path));
        }
        fs::remove_dir(repository.join("snapshots")).unwrap();
        assert_eq!(locate_in(&repository, None).unwrap(), repository, "some folder of that name");
    }

    #[test]
    fn folders_that_are_no_snapshots_have_no_other_name() {
        for folder in ["Prose-4M", "snapshots/abc", "models--a--b", "models--a--b/blobs/abc", "a/snapshots/abc"] {
            assert_eq!(name(Path::new(folder)), None, "{folder}");
        }
        assert_eq!(name(Path::new("hub/models--gpt2/snapshots/abc")), Some("gpt2"));
    }

    #[test]
    fn the_cache_is_where_its_variables_say() {
        let at = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            let variable = |name: &str| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            cache(variable, Some("/home/u".into())).unwrap()
        };
        assert_eq!(at(&[]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(at(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(at(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Path::new("/h/hub"));
        assert_eq!(at(&[("HF_HUB_CACHE", "/x"), ("HF_HOME", "/h")]), Path::new("/x"));
    }
}

//! Several output files that appear together.

use super::{OutputFile, Start, destination, exists, folder_of, interrupt, no_space, part_of, system, system_error};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// Files that appear together, or none of them: the parts of a split model, or a single file.
///
/// No system renames several files in one step. The first one appears last, and readers begin with it; where an older set
/// of the same names is replaced, its first file goes before anything else. So the first file is there only if all of
/// the set are, whatever happens in between.
#[derive(Debug)]
pub struct OutputSet {
    files: Vec<OutputFile>,
    /// Files that are of use only until all is finished.
    companions: Vec<PathBuf>,
    keep: bool,
}

impl OutputSet {
    /// Opens the temporary siblings of files of the same folder and reserves their sizes. Errors: those of
    /// [`OutputFile::create`], for the space of all files together.
    pub fn create(files: &[(PathBuf, u64)], start: Start) -> Result<Self> {
        // What the caller can mend is said before what the disk lacks.
        for (path, _) in files {
            destination(path, start.force)?;
        }
        let there = |path: &Path| if start.go_on { system::allocated(&part_of(path)) } else { 0 };
        let total = files.iter().map(|(path, size)| size.saturating_sub(there(path))).sum();
        if let Some((first, _)) = files.first()
            && let Some(free) = system::free_space(folder_of(first)).filter(|&free| free < total)
        {
            return Err(system_error(first, no_space(total, free)));
        }
        let files = files.iter().map(|(path, size)| OutputFile::start(path, *size, start)).collect::<Result<_>>()?;
        Ok(OutputSet { files, companions: Vec::new(), keep: start.keep })
    }

    /// A file that goes when this is finished, and with what is unfinished.
    pub fn accompany(&mut self, path: PathBuf) -> Result<()> {
        if !self.keep {
            interrupt::unfinished()?.insert(path.clone());
        }
        self.companions.push(path);
        Ok(())
    }

    pub(super) fn of(file: OutputFile) -> Self {
        let keep = file.keep;
        OutputSet { files: vec![file], companions: Vec::new(), keep }
    }

    /// The files, in order.
    pub fn files(&self) -> &[OutputFile] {
        &self.files
    }

    /// Waits until everything is on the disk, then moves the files to their destinations, the first one last.
    pub fn finish(mut self) -> Result<()> {
        for file in &self.files {
            file.file.sync().map_err(|e| file.refused(e))?;
        }
        {
            // An interrupt waits until all are moved.
            let mut parts = interrupt::unfinished()?;
            if let Some(file) = self.files.iter().find(|f| !f.force && f.path.symlink_metadata().is_ok()) {
                return Err(exists(&file.path).context("it appeared while this run was writing"));
            }
            if let [first, _, ..] = self.files.as_slice()
                && first.path.exists()
            {
                std::fs::remove_file(&first.path).map_err(|e| first.refused(e))?;
            }
            for i in (0..self.files.len()).rev() {
                let file = &self.files[i];
                if let Err(e) = std::fs::rename(&file.part, &file.path) {
                    let error = file.refused(e);
                    self.files[i + 1..].iter().for_each(|f| drop(std::fs::remove_file(&f.path)));
                    return Err(error);
                }
                parts.remove(&file.part);
                self.files[i].finished = true;
            }
        }
        self.companions.drain(..).for_each(|path| interrupt::remove(&path));
        let Some(first) = self.files.first() else { return Ok(()) };
        system::sync_folder(folder_of(&first.path))
            .with_context(|| format!("{}: written, but its folder could not be synced", first.path.display()))
    }
}

impl Drop for OutputSet {
    fn drop(&mut self) {
        if !self.keep {
            self.companions.iter().for_each(|path| interrupt::remove(path));
        }
    }
}

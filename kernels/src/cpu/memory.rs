//! Memory for activations and caches: zeroed, aligned, and refused with an error instead of an abort.

use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Alignment of every allocation: a cache line, and the widest vector register.
const ALIGN: usize = 64;

/// Types for which all-zero bytes are the value zero and that need no drop.
///
/// # Safety
/// All-zero bytes must be a valid value.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: zero bytes are 0.0, 0.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// What pages memory should have. With large ones the processor looks up fewer addresses, which makes reading a third
/// faster and more; the system gives them, if it can, when memory is first written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// 4 KiB.
    Small,
    /// 2 MiB where a whole one fits.
    Huge,
}

impl Pages {
    /// Below this a huge page or two make no difference, and would only take more memory.
    const LARGE: usize = 2 << 20;

    /// Tells the system. It may refuse, which changes speed and nothing else.
    fn ask(self, base: NonNull<u8>, size: usize) {
        #[cfg(target_os = "linux")]
        if size >= Self::LARGE {
            const PAGE: usize = 4096;
            let skip = base.as_ptr().align_offset(PAGE);
            let advice = match self {
                Pages::Small => libc::MADV_NOHUGEPAGE,
                Pages::Huge => libc::MADV_HUGEPAGE,
            };
            // SAFETY: the range was just allocated and is larger than a page; the advice changes no contents.
            unsafe { libc::madvise(base.as_ptr().add(skip).cast(), (size - skip) / PAGE * PAGE, advice) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (base, size);
    }
}

/// A fixed-size zeroed array on a cache-line boundary. Large ones cost memory only where they are written: the system
/// hands out zero pages on first touch.
pub(crate) struct Aligned<T: Plain> {
    /// What was allocated: `ALIGN` bytes more than needed, at the allocator's own alignment, because asking for a
    /// larger alignment makes the standard allocator write the zeros itself and so touch every page.
    base: NonNull<u8>,
    data: NonNull<T>,
    len: usize,
}

// SAFETY: the memory is owned and `T` is plain data that may be sent and shared.
unsafe impl<T: Plain> Send for Aligned<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Aligned<T> {}

impl<T: Plain> Aligned<T> {
    /// `len` zeros, in huge pages where they are many; `what` names them in the error when they are not to be had.
    pub(crate) fn zeroed(len: usize, what: &str) -> Result<Self> {
        Self::with_pages(len, what, Pages::Huge)
    }

    /// As [`Aligned::zeroed`], with a wish for pages.
    pub(crate) fn with_pages(len: usize, what: &str, pages: Pages) -> Result<Self> {
        let refused = || Error::OutOfMemory {
            what: what.into(),
            bytes: (len as u64).saturating_mul(size_of::<T>() as u64),
            backend: "cpu".into(),
        };
        let layout = Self::layout(len).ok_or_else(refused)?;
        // SAFETY: the layout is never empty (`ALIGN` is added).
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        pages.ask(base, layout.size());
        let skip = base.as_ptr().align_offset(ALIGN);
        assert!(skip < ALIGN, "addresses of bytes can be aligned");
        // SAFETY: `skip < ALIGN`, and `ALIGN` bytes more than `len` elements were allocated.
        let data = unsafe { base.add(skip) }.cast();
        Ok(Aligned { base, data, len })
    }

    fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<T>())?.checked_add(ALIGN)?;
        Layout::from_size_align(bytes, 16).ok()
    }
}

impl<T: Plain> Drop for Aligned<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len).expect("the same layout was computed when allocating");
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.base.as_ptr(), layout) }
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `data` points to `len` initialized (zeroed) elements owned by self, aligned to 64 bytes.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Aligned<u8> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A slice that several threads write to, each its own elements.
pub(crate) struct Split<'a, T> {
    data: *mut T,
    len: usize,
    _owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: only `slice` gives access, and its callers promise that ranges do not overlap.
unsafe impl<T: Send> Sync for Split<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Split { data: slice.as_mut_ptr(), len: slice.len(), _owner: std::marker::PhantomData }
    }

    /// Elements `start .. start + len`. Panics if they are not inside.
    ///
    /// # Safety
    /// No other slice that overlaps this one may be alive.
    #[allow(clippy::mut_from_ref)] // the point of this type
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part outside the slice");
        // SAFETY: inside the borrowed slice, as just checked; unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// Floats that the threads of one operation share, kept for the next one.
#[derive(Default)]
pub(crate) struct Workspace(Mutex<Option<Aligned<f32>>>);

impl Workspace {
    /// Calls `f` with `len` floats of unknown value. One caller at a time. Errors: not enough memory.
    pub(crate) fn with(&self, len: usize, f: impl FnOnce(&mut [f32])) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|floats| floats.len() < len) {
            *kept = None; // never both
            *kept = Some(Aligned::zeroed(len.next_power_of_two(), "a workspace")?);
        }
        if let Some(floats) = &mut *kept {
            f(&mut floats[..len]);
        }
        Ok(())
    }
}

/// Floats for one item of a loop; each thread keeps its own for the next item. No closure is involved, so that the code
/// which uses them is compiled for the instruction set of its function.
pub(crate) struct Scratch {
    floats: Vec<f32>,
    len: usize,
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    /// `len` floats of unknown value.
    pub(crate) fn of(len: usize) -> Self {
        let mut floats = SCRATCH.take();
        // The first one must lie on a cache line.
        if floats.len() < len + ALIGN / 4 {
            floats.resize(len + ALIGN / 4, 0.0);
        }
        Scratch { floats, len }
    }

    /// All of them, on a cache line.
    pub(crate) fn floats(&mut self) -> &mut [f32] {
        let skip = self.floats.as_ptr().align_offset(ALIGN).min(ALIGN / 4);
        &mut self.floats[skip..skip + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.floats));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_and_aligned() {
        for len in [0, 1, 5, 100_000] {
            let mut a = Aligned::<f32>::zeroed(len, "a test").unwrap();
            assert!(a.iter().all(|x| *x == 0.0));
            assert_eq!(a.as_ptr() as usize % ALIGN, 0);
            a.fill(1.0);
            assert_eq!(a.len(), len);
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4] {
            let error = Aligned::<f32>::zeroed(len, "a test").err().expect("so much memory was given");
            assert!(error.to_string().contains("a test"), "{error}");
        }
    }
}

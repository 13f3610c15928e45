//! Threads for one kind of work: short parallel loops, thousands a second.
//!
//! Workers spin for a moment after each loop, because the next one of the same token comes within microseconds, and
//! then sleep. Of more workers than cores the rest sleep on, and those who find too many awake lie down at once: each that
//! spins takes its time slices from the caller, without whom no loop begins. Items are handed out by an atomic counter, so a
//! worker that the system has put aside delays nobody: the others take its items, and a loop ends without those who never
//! entered it. Only one that was put aside in the middle of an item must be waited for; the caller then sleeps, so that the
//! system gives its core to that worker. Which thread computes an item must not change its result; everything built on this
//! gives the same bits for any number of threads.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps: longer than the gap between two loops of a token, and short enough
/// to be no burden on others.
const SPIN: Duration = Duration::from_micros(100);

/// A loop body: called with the number of an item.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

const NOTHING: &Body<'static> = &|_| {};

/// The loop being run.
struct Job {
    body: *const Body<'static>,
    items: usize,
}

/// `gate` holds the number of the loop in its upper bits, then whether it is closed, then how many workers are inside.
const CLOSED: u64 = 1 << 16;
const INSIDE: u64 = CLOSED - 1;
const EPOCH: u32 = 17;

struct Shared {
    gate: AtomicU64,
    next: AtomicUsize,
    /// Written by the caller only while the gate is closed and nobody is inside; read by workers inside.
    job: UnsafeCell<Job>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// How many are in `bed`.
    sleepers: AtomicUsize,
    /// Sleeping workers. The last to lie down is the first to be called: its memory is still in the cache, and what nobody
    /// needs sleeps on. (Called in turn, 63 workers for two cores cost a quarter of the tokens.)
    bed: Mutex<Vec<(usize, Thread)>>,
    /// Of each worker: it was called and has not got up yet.
    called: Vec<AtomicBool>,
    /// All workers, and those that can be at work at once: one for every core but the caller's.
    workers: usize,
    useful: usize,
    /// Whether the caller sleeps until the last worker has left, and who that is.
    waiting: AtomicBool,
    caller: Mutex<Option<Thread>>,
}

impl Shared {
    /// More workers are awake than can be at work.
    fn crowded(&self) -> bool {
        self.workers - self.sleepers.load(Ordering::SeqCst).min(self.workers) > self.useful
    }
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written while no worker is inside (see `Pool::run`),
// published by the release store that opens the gate and read only after an acquiring entry; the body that it points to
// is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never used outside of the loop that it belongs to.
unsafe impl Send for Shared {}

/// Worker threads that share loops with the calling thread.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<std::thread::JoinHandle<()>>,
    /// One loop at a time; a second caller waits.
    turn: Mutex<()>,
}

impl Pool {
    /// `threads` in all, the caller of [`Pool::run`] included. Errors: the system gives no thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { body: NOTHING, items: 0 }),
            panicked: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(Vec::with_capacity(threads)),
            called: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            workers: threads.saturating_sub(1),
            useful: cores - 1,
            waiting: AtomicBool::new(false),
            caller: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for i in 1..threads {
            let shared = pool.shared.clone();
            // On an error the pool is dropped, which ends the workers that were started.
            pool.workers
                .push(std::thread::Builder::new().name(format!("cpu-{i}")).spawn(move || work(&shared, i - 1))?);
        }
        Ok(pool)
    }

    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Threads that can be at work at once: no more than there are cores for.
    pub fn at_work(&self) -> usize {
        self.threads().min(self.shared.useful + 1)
    }

    /// Calls `body` once for every number below `items`, on this thread and the workers, in no particular order.
    ///
    /// Panics if `body` does, after every thread has left the loop. Must not be called from inside a body.
    pub fn run(&self, items: usize, body: impl Fn(usize) + Sync) {
        if items <= 1 || self.workers.is_empty() {
            return (0..items).for_each(body);
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        let body: &Body<'_> = &body;
        // SAFETY: the gate is closed and nobody is inside (the previous loop ended so), hence nothing reads `job`.
        // The lifetime is extended to store the pointer; workers use it only inside, and this function does not
        // return or unwind before the gate is closed again and the last one has left (`Close`).
        unsafe {
            let body = std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body);
            *shared.job.get() = Job { body, items };
        }
        lock(&shared.panicked).take(); // left behind when the caller's own item panicked as well
        shared.next.store(0, Ordering::Relaxed);
        let epoch = (shared.gate.load(Ordering::Relaxed) >> EPOCH) + 1;
        // SeqCst here and in `sleep`: either the worker sees the open gate or we see the sleeper.
        shared.gate.store(epoch << EPOCH, Ordering::SeqCst);
        let sleepers = shared.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            // No more than there are items and cores for: others would only take time from those at work.
            let awake = self.workers.len() - sleepers.min(self.workers.len());
            let wanted = shared.useful.min(items - 1).saturating_sub(awake);
            if wanted > 0 {
                let mut bed = lock(&shared.bed);
                // Counted as awake from now on, so that the next loop does not call others before these have come.
                for _ in 0..wanted {
                    let Some((worker, thread)) = bed.pop() else { break };
                    shared.sleepers.fetch_sub(1, Ordering::SeqCst);
                    shared.called[worker].store(true, Ordering::SeqCst);
                    thread.unpark();
                }
            }
        }
        let close = Close(shared);
        loop {
            let i = shared.next.fetch_add(1, Ordering::Relaxed);
            if i >= items {
                break;
            }
            body(i);
        }
        drop(close);
        let panicked = lock(&shared.panicked).take();
        if let Some(cause) = panicked {
            resume_unwind(cause);
        }
    }
}

/// Ends the loop: no item is handed out any more, nobody may enter, and everybody has left.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
        self.0.gate.fetch_or(CLOSED, Ordering::AcqRel);
        let inside = || self.0.gate.load(Ordering::SeqCst) & INSIDE != 0;
        let start = Instant::now();
        while inside() {
            if start.elapsed() < SPIN {
                std::hint::spin_loop();
                continue;
            }
            // SeqCst, here and in `work`: either the last worker sees that we wait, or we see that it has left.
            *lock(&self.0.caller) = Some(std::thread::current());
            self.0.waiting.store(true, Ordering::SeqCst);
            while inside() {
                std::thread::park();
            }
            self.0.waiting.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Whoever lies down after this sees `stop`.
        lock(&self.shared.bed).drain(..).for_each(|(_, thread)| thread.unpark());
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // panics of bodies were caught and passed on already
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, worker: usize) {
    let mut done = 0; // the last loop that this worker took part in
    while wait(shared, worker, done) {
        let gate = shared.gate.load(Ordering::Acquire);
        if gate & CLOSED != 0 || gate >> EPOCH == done {
            continue;
        }
        if shared.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        done = gate >> EPOCH;
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: we are inside the open gate: the caller wrote `job` before opening it and waits for us to leave.
            let (body, items) = unsafe {
                let job = &*shared.job.get();
                (&*job.body, job.items)
            };
            loop {
                let i = shared.next.fetch_add(1, Ordering::Relaxed);
                if i >= items {
                    break;
                }
                body(i);
            }
        }));
        if let Err(cause) = result {
            shared.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
            lock(&shared.panicked).get_or_insert(cause);
        }
        let left = shared.gate.fetch_sub(1, Ordering::SeqCst) & INSIDE == 1;
        if left
            && shared.waiting.load(Ordering::SeqCst)
            && let Some(caller) = &*lock(&shared.caller)
        {
            caller.unpark();
        }
    }
}

/// Waits for a loop other than `done`: spins, then sleeps. False when the pool ends.
fn wait(shared: &Shared, worker: usize, done: u64) -> bool {
    let ready = |gate: u64| gate & CLOSED == 0 && gate >> EPOCH != done;
    let start = Instant::now();
    let mut bed = loop {
        let crowded = shared.crowded();
        if !crowded {
            for _ in 0..32 {
                if ready(shared.gate.load(Ordering::Acquire)) {
                    return true;
                }
                std::hint::spin_loop();
            }
            if shared.stop.load(Ordering::Relaxed) {
                return false;
            }
        }
        if crowded || start.elapsed() >= SPIN {
            let bed = lock(&shared.bed);
            // Of several that find it crowded, only as many as are too many lie down.
            if !crowded || shared.crowded() {
                break bed;
            }
        }
    };
    let crowded = shared.crowded();
    bed.push((worker, std::thread::current()));
    shared.sleepers.fetch_add(1, Ordering::SeqCst);
    // SeqCst, see `Pool::run`: a loop that opens from here on sees this sleeper. (With more workers than cores it may
    // leave it asleep; its items are done by others.)
    if !crowded && ready(shared.gate.load(Ordering::SeqCst)) {
        bed.pop();
        shared.sleepers.fetch_sub(1, Ordering::SeqCst);
        return true;
    }
    drop(bed);
    loop {
        if shared.stop.load(Ordering::SeqCst) {
            return false;
        }
        if shared.called[worker].swap(false, Ordering::SeqCst) {
            return true;
        }
        std::thread::park();
    }
}

/// The locks guard no data that a panic could leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once() {
        for threads in [1, 2, 3, 7, 64] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for items in [0, 1, 2, 7, 1000] {
                let hits: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..20 {
                    pool.run(items, |i| {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 20), "{threads} threads, {items} items");
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_again() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(SPIN * 5);
            pool.run(100, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 5 * 4950);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(4).unwrap();
        for round in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(100, |i| assert!(i != 17 + round, "item {i}"))));
            let cause = result.expect_err("the panic was lost");
            assert_eq!(cause.downcast_ref::<String>().unwrap(), &format!("item {}", 17 + round));
        }
        let count = AtomicUsize::new(0);
        pool.run(50, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 50);
    }

    #[test]
    fn callers_from_several_threads_take_turns() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(10, |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 2000);
    }
}

//! In the place of `src/system/sync.rs`: its locks, but each use of one is a point where another thread may go on, as the
//! model checker chooses. A wait ends by a notification only, so a lost one is found as a deadlock.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use shuttle::rand::Rng;
pub use shuttle::sync::atomic::AtomicBool;

pub mod rank {
    pub const SHARING: u8 = 5;
    pub const BRIEF: u8 = 6;
    pub const LAST: u8 = 7;
}

thread_local! {
    /// One in so many waits times out; 0: none. The checker runs all threads on one of the system's.
    pub static TIMEOUTS: Cell<u32> = const { Cell::new(0) };
}

#[derive(Debug, Default)]
pub struct Mutex<T, const RANK: u8>(shuttle::sync::Mutex<T>);

impl<T, const RANK: u8> Mutex<T, RANK> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T, RANK> {
        MutexGuard { mutex: self, guard: Some(self.plain()) }
    }

    fn plain(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct MutexGuard<'a, T, const RANK: u8> {
    mutex: &'a Mutex<T, RANK>,
    /// `None` only within a wait.
    guard: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T, const RANK: u8> Deref for MutexGuard<'_, T, RANK> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_deref().expect("locked")
    }
}

impl<T, const RANK: u8> DerefMut for MutexGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_deref_mut().expect("locked")
    }
}

#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait<T, const RANK: u8>(&self, guard: &mut MutexGuard<'_, T, RANK>) {
        let inner = guard.guard.take().expect("locked");
        guard.guard = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    pub fn wait_until<T, const RANK: u8>(&self, guard: &mut MutexGuard<'_, T, RANK>, _: Instant) -> WaitTimeoutResult {
        let one_in = TIMEOUTS.get();
        let times_out = one_in > 0 && shuttle::rand::thread_rng().gen_ratio(1, one_in);
        if times_out {
            guard.guard = None;
            shuttle::thread::yield_now();
            guard.guard = Some(guard.mutex.plain());
        } else {
            self.wait(guard);
        }
        WaitTimeoutResult(times_out)
    }
}

#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn read(&self) -> impl Deref<Target = T> + '_ {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> impl DerefMut<Target = T> + '_ {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel with room for one message, which is all that the program uses of `crossbeam-channel`.
pub struct Sender<T>(Arc<Channel<T>>);
pub struct Receiver<T>(Arc<Channel<T>>);

struct Channel<T> {
    message: Mutex<Option<T>, { rank::LAST }>,
    sent: Condvar,
}

pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert_eq!(capacity, 1);
    let place = Arc::new(Channel { message: Mutex::new(None), sent: Condvar::new() });
    (Sender(place.clone()), Receiver(place))
}

impl<T> Sender<T> {
    /// Returns the message where another one is waiting.
    pub fn try_send(&self, message: T) -> Result<(), T> {
        let mut place = self.0.message.lock();
        if place.is_some() {
            return Err(message);
        }
        *place = Some(message);
        self.0.sent.notify_one();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// An error means that the time is over.
    pub fn recv_timeout(&self, _: Duration) -> Result<T, ()> {
        let mut place = self.0.message.lock();
        loop {
            if let Some(message) = place.take() {
                return Ok(message);
            }
            if self.0.sent.wait_until(&mut place, Instant::now()).timed_out() {
                return Err(());
            }
        }
    }
}

//! Locks that know their place in the lock order. In debug builds, and so in tests, a lock that is taken out of order
//! panics, whether or not two threads block each other that time. In release builds they are parking_lot's own types.
//!
//! `tests/schedules` puts the locks of a model checker in the place of this file.

#[cfg(debug_assertions)]
pub use self::checked::{Condvar, Mutex, MutexGuard};
#[cfg(not(debug_assertions))]
pub use self::plain::{Condvar, Mutex, MutexGuard};
pub use crossbeam_channel::{Receiver, Sender, bounded};
pub use parking_lot::RwLock;
pub use std::sync::atomic::AtomicBool;

/// Ranks of locks: a thread that holds a lock takes only locks of a higher rank.
pub mod rank {
    /// One change of settings at a time; the only one that is held while a thread waits.
    pub const CHANGE: u8 = 1;
    /// The camera mutex.
    pub const CAMERA: u8 = 2;
    /// What is known of cameras and settings, and taken with the camera mutex held.
    pub const KNOWN: u8 = 3;
    /// A device that other threads use too.
    pub const DEVICE: u8 = 4;
    /// The one still for all requests that come together.
    pub const SHARING: u8 = 5;
    /// Locks that are held for a moment, one of them at a time.
    pub const BRIEF: u8 = 6;
    /// Locks that one of those may be held with.
    pub const LAST: u8 = 7;
}

#[cfg(not(debug_assertions))]
mod plain {
    pub use parking_lot::Condvar;
    pub type Mutex<T, const RANK: u8> = parking_lot::Mutex<T>;
    pub type MutexGuard<'a, T, const RANK: u8> = parking_lot::MutexGuard<'a, T>;
}

#[cfg(debug_assertions)]
mod checked {
    use std::cell::RefCell;
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    use parking_lot::WaitTimeoutResult;

    thread_local! {
        /// The ranks of the locks that this thread holds.
        static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    /// One lock that this thread holds, or is about to take.
    struct Held(u8);

    impl Held {
        fn take(rank: u8) -> Self {
            HELD.with_borrow_mut(|held| {
                let is_in_order = held.iter().all(|other| *other < rank);
                assert!(is_in_order, "lock order: a lock of rank {rank} is taken while {held:?} are held");
                held.push(rank);
            });
            Self(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| held.retain(|rank| *rank != self.0));
        }
    }

    /// A mutex whose place in the lock order is checked.
    #[derive(Debug, Default)]
    pub struct Mutex<T, const RANK: u8>(parking_lot::Mutex<T>);

    /// A locked mutex.
    pub struct MutexGuard<'a, T, const RANK: u8> {
        /// Unlocked first.
        guard: parking_lot::MutexGuard<'a, T>,
        held: Held,
    }

    impl<T, const RANK: u8> Mutex<T, RANK> {
        pub const fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T, RANK> {
            let held = Held::take(RANK);
            MutexGuard { guard: self.0.lock(), held }
        }

        pub fn try_lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, T, RANK>> {
            let held = Held::take(RANK);
            Some(MutexGuard { guard: self.0.try_lock_until(deadline)?, held })
        }
    }

    impl<T, const RANK: u8> MutexGuard<'_, T, RANK> {
        pub fn unlock_fair(self) {
            parking_lot::MutexGuard::unlock_fair(self.guard);
        }
    }

    impl<T, const RANK: u8> Deref for MutexGuard<'_, T, RANK> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T, const RANK: u8> DerefMut for MutexGuard<'_, T, RANK> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    /// A condition variable that no thread waits for with another lock held, but for [`rank::CHANGE`](super::rank::CHANGE).
    #[derive(Debug, Default)]
    pub struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub const fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        pub fn notify_all(&self) -> usize {
            self.0.notify_all()
        }

        pub fn wait_until<T, const RANK: u8>(
            &self,
            guard: &mut MutexGuard<'_, T, RANK>,
            deadline: Instant,
        ) -> WaitTimeoutResult {
            assert_no_other(&guard.held);
            self.0.wait_until(&mut guard.guard, deadline)
        }
    }

    fn assert_no_other(held: &Held) {
        HELD.with_borrow(|all| {
            let is_allowed = all.iter().all(|rank| *rank == held.0 || *rank == super::rank::CHANGE);
            assert!(is_allowed, "a thread waits while it holds locks of the ranks {all:?}");
        });
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::time::Instant;

    use super::*;

    static CAMERA: Mutex<u8, { rank::CAMERA }> = Mutex::new(0);
    static STATUS: Mutex<u8, { rank::BRIEF }> = Mutex::new(0);

    #[test]
    fn locks_in_their_order_pass() {
        for _ in 0..2 {
            let camera = CAMERA.lock();
            drop(STATUS.lock());
            let status = STATUS.lock();
            drop((camera, status));
            // Neither is held any more.
            let mut camera = CAMERA.lock();
            assert!(Condvar::new().wait_until(&mut camera, Instant::now()).timed_out());
            MutexGuard::unlock_fair(camera);
        }
    }

    #[test]
    #[should_panic = "lock order: a lock of rank 2 is taken while [6] are held"]
    fn a_lock_out_of_order_panics_though_nobody_holds_it() {
        let _status = STATUS.lock();
        let _camera = CAMERA.lock();
    }

    #[test]
    #[should_panic = "a thread waits while it holds locks of the ranks [2, 6]"]
    fn no_thread_waits_with_another_lock_held() {
        let _camera = CAMERA.lock();
        Condvar::new().wait_until(&mut STATUS.lock(), Instant::now());
    }
}

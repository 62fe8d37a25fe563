//! One result for all that ask at the same time: whoever comes first works for it, and the others wait for what comes of
//! that, if it will do for them.

use std::time::{Duration, Instant};

use super::settle::Rule;
use super::{CameraError, ErrorKind};
use crate::system::sync::{Condvar, Mutex, rank};

/// Longest wait before a request looks again whether it may go on.
const TICK: Duration = Duration::from_millis(250);

/// Results of type `T` and the requests that wait for one.
pub struct Sharing<T> {
    state: Mutex<Shared<T>, { rank::SHARING }>,
    changed: Condvar,
}

struct Shared<T> {
    is_busy: bool,
    /// The rules of the requests that wait for a result.
    waiting: Vec<Rule>,
    /// Attempts that have ended.
    attempts: u64,
    /// Why the last one failed.
    failure: Option<CameraError>,
    newest: Option<T>,
}

/// What a request is to do.
pub enum Turn<'a, T> {
    /// Nothing: this result of another request will do.
    Done(T),
    /// Work for a result, under the rule that will do for all that wait now.
    Own(Attempt<'a, T>, Rule),
}

/// One request's work for a result. Dropping it, also by a panic, ends the attempt, so that no other waits for ever.
pub struct Attempt<'a, T> {
    sharing: &'a Sharing<T>,
    /// `None` until it is known.
    outcome: Option<Result<T, CameraError>>,
}

impl<T: Clone> Sharing<T> {
    /// Begins without a result.
    pub fn new() -> Self {
        let state = Shared { is_busy: false, waiting: Vec::new(), attempts: 0, failure: None, newest: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for a result of another request for which `will_do` holds, or for this request's turn. No turn begins before
    /// the time that `not_before` returns. After each wait, and at least four times a second, `go_on` is asked.
    ///
    /// # Errors
    /// Those of `not_before` and of `go_on`, and the failure of an attempt that this request waited for.
    pub fn turn(
        &self,
        rule: Rule,
        will_do: &dyn Fn(&T) -> bool,
        not_before: &dyn Fn() -> Result<Option<Instant>, CameraError>,
        go_on: &dyn Fn() -> Result<(), CameraError>,
    ) -> Result<Turn<'_, T>, CameraError> {
        self.state.lock().waiting.push(rule);
        let turn = self.wait(will_do, not_before, go_on);
        let mut state = self.state.lock();
        let strictest = state.waiting.iter().copied().fold(rule, Rule::stricter);
        if let Some(at) = state.waiting.iter().position(|waiting| *waiting == rule) {
            state.waiting.swap_remove(at);
        }
        drop(state);
        Ok(match turn? {
            Some(result) => Turn::Done(result),
            None => Turn::Own(Attempt { sharing: self, outcome: None }, strictest),
        })
    }

    fn wait(
        &self,
        will_do: &dyn Fn(&T) -> bool,
        not_before: &dyn Fn() -> Result<Option<Instant>, CameraError>,
        go_on: &dyn Fn() -> Result<(), CameraError>,
    ) -> Result<Option<T>, CameraError> {
        let mut seen = None;
        loop {
            let mut state = self.state.lock();
            if let Some(result) = state.newest.as_ref().filter(|result| will_do(result)) {
                return Ok(Some(result.clone()));
            }
            // An attempt that began before this request, and failed since, fails it too.
            if let (Some(seen), Some(failure)) = (seen, &state.failure)
                && state.attempts != seen
            {
                return Err(failure.clone());
            }
            let mut until = Instant::now() + TICK;
            if state.is_busy {
                seen = Some(state.attempts);
            } else if let Some(at) = not_before()? {
                until = until.min(at);
            } else {
                state.is_busy = true;
                return Ok(None);
            }
            self.changed.wait_until(&mut state, until);
            drop(state);
            go_on()?;
        }
    }
}

impl<T: Clone> Attempt<'_, T> {
    /// Ends the attempt with this outcome.
    pub fn end(mut self, outcome: Result<T, CameraError>) {
        self.outcome = Some(outcome);
    }
}

impl<T> Drop for Attempt<'_, T> {
    fn drop(&mut self) {
        let unexpected = || CameraError::new(ErrorKind::Failed, "taking the still ended unexpectedly");
        let mut state = self.sharing.state.lock();
        state.is_busy = false;
        state.attempts += 1;
        match self.outcome.take().unwrap_or_else(|| Err(unexpected())) {
            Ok(result) => (state.newest, state.failure) = (Some(result), None),
            Err(error) => state.failure = Some(error),
        }
        drop(state);
        self.sharing.changed.notify_all();
    }
}

//! Bounds on what files and strangers may take from a process: bytes, connections, log lines.
//!
//! How large each bound is, and what happens to whom it stops, is decided by the programs.

mod files;
mod places;
mod throttle;

pub use files::{FileError, MAX_FILE_BYTES, read_file};
pub use places::{FreePlace, Place, Places, source_of};
pub use throttle::Throttle;

/// Locks; a poisoned lock is taken all the same, because every critical section here leaves its data whole.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! What is in use, so that what is not can be told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The values that are in use, each as often as there are marks of it.
#[derive(Debug)]
pub(super) struct Known<T>(Mutex<Vec<T>>);

/// A value that is in use until this is dropped.
#[derive(Debug)]
pub(super) struct Mark<T: PartialEq> {
    pub(super) value: T,
    known: Arc<Known<T>>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known(Mutex::default())
    }
}

impl<T: PartialEq + Clone> Known<T> {
    /// Marks a value.
    pub(super) fn mark(self: &Arc<Self>, value: T) -> Mark<T> {
        self.values().push(value.clone());
        Mark { value, known: Arc::clone(self) }
    }

    /// Marks a value, unless it is in use already.
    pub(super) fn mark_new(self: &Arc<Self>, value: T) -> Option<Mark<T>> {
        let mut values = self.values();
        if values.contains(&value) {
            return None;
        }
        values.push(value.clone());
        Some(Mark { value, known: Arc::clone(self) })
    }

    pub(super) fn has<Q: ?Sized>(&self, value: &Q) -> bool
    where
        T: PartialEq<Q>,
    {
        self.values().iter().any(|known| known == value)
    }
}

impl<T> Known<T> {
    fn values(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PartialEq> Mark<T> {
    fn remove(&self) {
        let mut values = self.known.values();
        if let Some(place) = values.iter().position(|known| *known == self.value) {
            values.swap_remove(place);
        }
    }
}

impl<T: PartialEq> Drop for Mark<T> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(feature = "conformance")]
impl<T: PartialEq + Copy> Mark<T> {
    /// Takes the mark away, though the value is in use.
    pub(super) fn lose(&self) -> T {
        self.remove();
        self.value
    }
}

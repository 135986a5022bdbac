//! A model in use.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use super::ModelId;

/// A registered model of type `T`: what [`super::Memory::lease`] takes.
pub struct Handle<T> {
    pub(super) id: ModelId,
    pub(super) kind: PhantomData<fn() -> T>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "`handles.iter().map(Handle::id)`")]
impl<T> Handle<T> {
    /// Its name in visits and reports.
    pub fn id(self) -> ModelId {
        self.id
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.id)
    }
}

/// A model that stays on the device until this is dropped. Do not keep a tensor or layer cloned out of it any longer: it
/// would hold the memory too, unknown to the budget.
pub struct Lease<T> {
    net: Arc<T>,
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// `None` if the net is of another type, which a [`Handle`] rules out.
    pub(super) fn new(net: Arc<dyn Any + Send + Sync>) -> Option<Self> {
        Some(Self { net: net.downcast().ok()? })
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.net
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

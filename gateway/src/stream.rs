//! What the streams of the gateway have in common, whatever they become.

use std::pin::Pin;

use metrics::gauge;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::{Status, Streaming};

/// A call whose first message, or whose end, has been seen.
pub(crate) struct Opened {
    /// `None`: the stream ended without a message.
    pub(crate) first: Option<DynamicMessage>,
    /// What follows.
    pub(crate) rest: Streaming<DynamicMessage>,
}

/// A call that is on its way to its first message.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Opened, Status>> + Send>>;

/// Counts the streams that are open.
pub(crate) struct Active(String);

impl Active {
    /// One more, until it is dropped.
    pub(crate) fn new(rpc: &MethodDescriptor) -> Self {
        let name = rpc.full_name().to_owned();
        gauge!("gateway_streams_active", "rpc" => name.clone()).increment(1.0);
        Self(name)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!("gateway_streams_active", "rpc" => std::mem::take(&mut self.0)).decrement(1.0);
    }
}

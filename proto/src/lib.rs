//! The contract of Runmesh: its messages, its gRPC services, and their descriptors.
//!
//! This crate is generated from the `.proto` files beside it and adds nothing of its own but [`descriptors`]. Every
//! other crate stands on it; it stands on none of them. Invariants: the files pass `buf lint` (STANDARD) and
//! `buf breaking` (WIRE_JSON), and what a method or an event type needs to be known for (route, access, topic) is an
//! option beside its definition.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// All files of the contract and what they import, as an encoded `google.protobuf.FileDescriptorSet`, custom options
/// included.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    #[allow(clippy::expect_used, reason = "the bytes are built with the crate")]
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the embedded descriptors are well-formed")
});

/// The descriptors of the contract.
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $package:literal $(, $more:literal)?) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1.
            #[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
            pub mod v1 {
                tonic::include_proto!($package);
                $(include!(concat!(env!("OUT_DIR"), "/", $more));)?
            }
        }
    };
}

/// The packages as protobuf names them.
pub mod runmesh {
    package!(/// Options that describe methods.
        api, "runmesh.api.v1");
    package!(/// Deliveries that could not be handled.
        dlq, "runmesh.dlq.v1");
    package!(/// Event types, payloads and the envelope.
        event, "runmesh.event.v1", "payload_impls.rs");
    package!(/// The log of all events.
        event_log, "runmesh.event_log.v1");
    package!(/// Running scripts.
        execution, "runmesh.execution.v1");
    package!(/// Waiting for slots.
        queue, "runmesh.queue.v1");
    package!(/// Events that are sent again.
        replay, "runmesh.replay.v1");
    package!(/// Results of executions.
        result, "runmesh.result.v1");
    package!(/// Sagas of executions.
        saga, "runmesh.saga.v1");
}

/// Messages of Google's API packages that the contract uses.
pub mod google {
    /// Bodies of HTTP responses that are no JSON.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all, reason = "generated")]
    pub mod api {
        tonic::include_proto!("google.api");
    }
}

pub use runmesh::{
    api::v1 as api, dlq::v1 as dlq, event::v1 as event, event_log::v1 as event_log, execution::v1 as execution,
    queue::v1 as queue, replay::v1 as replay, result::v1 as result, saga::v1 as saga,
};

//! Compiles the protos, without an installed protoc, and keeps the descriptors (with custom options) as a file.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

use prost::Message as _;

const FILES: &[&str] = &[
    "runmesh/api/v1/options.proto",
    "runmesh/dlq/v1/dead_letter_service.proto",
    "runmesh/event/v1/event.proto",
    "runmesh/event/v1/event_type.proto",
    "runmesh/event/v1/filter.proto",
    "runmesh/event_log/v1/event_log_service.proto",
    "runmesh/execution/v1/execution_service.proto",
    "runmesh/queue/v1/queue_service.proto",
    "runmesh/replay/v1/replay_service.proto",
    "runmesh/result/v1/result_service.proto",
    "runmesh/saga/v1/saga_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=runmesh");
    println!("cargo::rerun-if-changed=third_party");

    let mut compiler = protox::Compiler::new([".", "third_party"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let bytes = compiler.encode_file_descriptor_set();
    let out = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    fs::write(Path::new(&out).join("descriptors.bin"), &bytes)?;

    let set = prost_types::FileDescriptorSet::decode(bytes.as_slice())?;
    fs::write(Path::new(&out).join("payload_impls.rs"), payload_impls(&set)?)?;
    tonic_prost_build::configure()
        .bytes(".runmesh")
        .btree_map(".runmesh")
        .compile_well_known_types(false)
        .compile_fds(set)?;
    Ok(())
}

/// Writes `Payload::event_type` and a `From` for each payload message, so that a new event type touches the proto alone.
fn payload_impls(set: &prost_types::FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let event = set
        .file
        .iter()
        .filter(|file| file.package() == "runmesh.event.v1")
        .flat_map(|file| &file.message_type)
        .find(|message| message.name() == "Event")
        .ok_or("no message runmesh.event.v1.Event")?;
    let mut types = String::new();
    let mut conversions = String::new();
    for field in event.field.iter().filter(|field| field.oneof_index.is_some()) {
        let variant = field.type_name().rsplit('.').next().ok_or("a payload without a type")?;
        writeln!(types, "            Self::{variant}(_) => EventType::{variant},")?;
        writeln!(
            conversions,
            "impl From<{variant}> for event::Payload {{\n    fn from(payload: {variant}) -> Self {{\n        \
             Self::{variant}(payload)\n    }}\n}}"
        )?;
    }
    Ok(format!(
        "impl event::Payload {{\n    /// The event type that the payload is of.\n    \
         pub const fn event_type(&self) -> EventType {{\n        match self {{\n{types}        }}\n    }}\n}}\n{conversions}"
    ))
}

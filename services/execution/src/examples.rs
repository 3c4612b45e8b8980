//! Scripts to try: the files of the folder `examples`.

use runmesh_proto::execution::ExampleScript;

/// Name, language, description, text.
const SCRIPTS: &[(&str, &str, &str, &str)] = &[
    ("hello.py", "python", "Prints a few lines with a pause between them", include_str!("../../../examples/hello.py")),
    ("hello.sh", "bash", "Says hello from a shell", include_str!("../../../examples/hello.sh")),
    ("hello.mjs", "node", "Says hello from JavaScript", include_str!("../../../examples/hello.mjs")),
];

pub(crate) fn scripts() -> Vec<ExampleScript> {
    SCRIPTS
        .iter()
        .map(|(name, language, description, script)| ExampleScript {
            name: (*name).to_owned(),
            language: (*language).to_owned(),
            description: (*description).to_owned(),
            script: (*script).to_owned(),
        })
        .collect()
}

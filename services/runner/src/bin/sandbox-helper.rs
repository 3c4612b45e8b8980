//! The sandbox's helper as a program of its own. Sandboxes are copies of it, so the node takes it rather than its own large
//! program where it is beside that. Tests use it too, whose own `main` is not theirs to change.

fn main() {
    runmesh_runner::run_sandbox_helper_if_asked();
    eprintln!("the first argument has to be {:?}", runmesh_runner::SANDBOX_HELPER_ARGUMENT);
    std::process::exit(2);
}

//! All of these tests again, as a user without privileges.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Names the helper where these tests run elsewhere.
pub(crate) const HELPER_VARIABLE: &str = "MESH_TEST_HELPER";

/// A user that no file belongs to.
const USER: u32 = 64_321;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        // It is one already.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(folder.path());
    let [tests, helper] = ["tests", "helper"].map(|name| folder.path().join(name));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_sandbox-helper"), &helper).unwrap();
    let output = Command::new(&tests)
        .args(["--skip", "ordinary_user", "--test-threads", "2"])
        .env(HELPER_VARIABLE, &helper)
        .env("HOME", "/")
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

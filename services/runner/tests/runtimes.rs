//! Finding interpreters, in a folder with made-up ones and on this machine.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use runmesh_runner::{Runtimes, Search, UnknownRuntime};

/// A registry with one language whose interpreters are copies of `echo`: what they print is in the registry.
const REGISTRY: &str = r#"
[[language]]
name = "talk"
aliases = ["speak"]
display = "Talk"
package = "talk-cli"
file_name = "main.talk"
extensions = ["talk"]
executables = ["talk", "talk#.#"]
folders = ["~/versions/*/bin"]
version = ["talk 1.2.3"]
command = ["{program}", "-u", "{file}"]

[[language]]
name = "silent"
display = "Silent"
package = "silent-cli"
file_name = "main.silent"
executables = ["silent"]
version = []
command = ["{program}", "{file}"]
"#;

fn search(folder: &Path) -> Search {
    let registry = folder.join("runtimes.toml");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(&registry, REGISTRY).unwrap();
    Search {
        path: folder.join("bin").into(),
        home: Some(folder.to_owned()),
        registry: Some(registry),
        cache: Some(folder.join("cache.toml")),
    }
}

fn executable(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn interpreters_are_found_once_by_their_real_path_and_shims_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let search = search(&root);
    let echo = fs::read("/bin/echo").unwrap();
    executable(&root.join("bin/talk"), b"#!/bin/sh\necho 9.9.9\n");
    executable(&root.join("versions/one/bin/talk1.2"), &echo);
    symlink("talk1.2", root.join("versions/one/bin/talk")).unwrap();
    fs::write(root.join("bin/talk5.5"), "not executable").unwrap();
    executable(&root.join("bin/silent"), &fs::read("/bin/true").unwrap());

    let runtimes = Runtimes::discover(&search).await.unwrap();
    let [runtime] = runtimes.list() else { panic!("{:?}", runtimes.list()) };
    let program = root.join("versions/one/bin/talk1.2").display().to_string();
    assert_eq!(
        (&*runtime.language, &*runtime.version.to_string(), runtime.default, &*runtime.file_name),
        ("talk", "1.2.3", true, "main.talk")
    );
    assert_eq!(runtime.command, [&program, "-u", "{file}"]);
    assert_eq!(runtime.command_for("a.talk", &["x".to_owned()]), [&program, "-u", "a.talk", "x"]);
    assert_eq!(runtime.command_for("-c.talk", &[]), [&program, "-u", "./-c.talk"]);
    assert_eq!(runtimes.language_of("hello.talk"), Some("talk"));
    assert_eq!(runtimes.language_of("hello"), None);
    assert_eq!(runtimes.resolve("speak", "1.2").unwrap(), runtime);
    assert_eq!(runtimes.missing().collect::<Vec<_>>(), [("silent", "silent-cli")]);
    assert_eq!(
        runtimes.resolve("talk", "1.3").unwrap_err().to_string(),
        "there is no version \"1.3\" of talk here, only 1.2.3"
    );
    assert_eq!(
        runtimes.resolve("cobol", "").unwrap_err(),
        UnknownRuntime::Language { language: "cobol".to_owned(), available: vec!["talk".to_owned()] }
    );
}

#[tokio::test]
async fn a_version_is_remembered_until_the_executable_changes() {
    let folder = tempfile::tempdir().unwrap();
    let search = search(folder.path());
    let program = folder.path().join("bin/talk");
    executable(&program, &fs::read("/bin/echo").unwrap());
    let version = async || {
        let runtimes = Runtimes::discover(&search).await.unwrap();
        runtimes.list().first().map(|runtime| runtime.version.to_string())
    };
    assert_eq!(version().await.as_deref(), Some("1.2.3"));

    let cache = search.cache.as_ref().unwrap();
    let remembered = fs::read_to_string(cache).unwrap();
    fs::write(cache, remembered.replace("1.2.3", "4.5.6")).unwrap();
    assert_eq!(version().await.as_deref(), Some("4.5.6"), "it should not have been asked again");

    fs::write(cache, "what is this?").unwrap();
    assert_eq!(version().await.as_deref(), Some("1.2.3"));

    fs::remove_file(&program).unwrap();
    executable(&program, &fs::read("/bin/true").unwrap());
    assert_eq!(version().await, None, "it should have been asked again");
}

#[tokio::test]
async fn mistakes_in_a_registry_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let search = search(folder.path());
    let path = search.registry.clone().unwrap();
    for (from, to, what) in [
        ("display = \"Talk\"", "dispaly = \"Talk\"", "dispaly"),
        ("name = \"silent\"", "name = \"speak\"", "\"speak\" is taken"),
        ("\"{program}\", \"-u\"", "\"talk\"", "must begin with"),
        ("\"-u\", \"{file}\"", "\"-u\"", "{file}"),
    ] {
        fs::write(&path, REGISTRY.replacen(from, to, 1)).unwrap();
        let error = Runtimes::discover(&search).await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let missing = Search { registry: Some(folder.path().join("none.toml")), ..search };
    assert!(Runtimes::discover(&missing).await.unwrap_err().to_string().contains("none.toml"));
}

#[tokio::test]
async fn the_interpreters_of_this_machine_are_found() {
    let runtimes = Runtimes::discover(&Search { path: "/usr/bin:/bin".into(), ..Search::default() }).await.unwrap();
    let bash = runtimes.resolve("bash", "").unwrap();
    assert!(bash.default && bash.command[0].ends_with("/bash"), "{bash:?}");
    assert_eq!(runtimes.language_of("hello.py"), Some("python"));
    for (one, next) in runtimes.list().iter().zip(&runtimes.list()[1..]) {
        assert!(one.language != next.language || one.version > next.version, "{one:?} {next:?}");
    }
}

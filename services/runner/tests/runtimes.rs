//! Finding interpreters, in a folder with made-up ones and on this machine.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use runmesh_runner::{MissingLanguage, Runtimes, Search, UnknownRuntime};

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
    assert_eq!(runtimes.language_of("hello.talk"), Some("talk"));
    assert_eq!(runtimes.language_of("hello"), None);
    assert_eq!(runtimes.resolve("speak", "1.2").unwrap(), runtime);
    let silent = MissingLanguage { name: "silent", display: "Silent", package: "silent-cli" };
    assert_eq!(runtimes.missing().collect::<Vec<_>>(), [silent]);
    assert_eq!(
        runtimes.resolve("talk", "1.3").unwrap_err().to_string(),
        "there is no version \"1.3\" of talk here, only 1.2.3"
    );
    assert_eq!(
        runtimes.resolve("cobol", "").unwrap_err(),
        UnknownRuntime::Language { language: "cobol".to_owned(), available: vec!["talk".to_owned()] }
    );
}

/// As [`REGISTRY`], with a language that is compiled.
const COMPILED: &str = r#"
[[language]]
name = "shout"
display = "Shout"
package = "shout-dev"
file_name = "main.shout"
executables = ["shoutc"]
folders = ["~/versions/*/bin"]
shims = ["shoutup"]
version = ["shout 2.0 stable"]
unwanted = ["unstable"]
requires = ["{bin}/shout"]
compile = ["{program}", "-o", "{build}/loud", "{sources}"]
compile_environment = { QUIET = "0" }
command = ["{bin}/shout", "{build}/loud"]
"#;

#[tokio::test]
async fn a_compiler_is_found_with_all_that_it_requires() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let search = search(&root);
    let registry = search.registry.clone().unwrap();
    fs::write(&registry, COMPILED).unwrap();
    let echo = fs::read("/bin/echo").unwrap();
    let found = async || Runtimes::discover(&search).await.unwrap().list().to_vec();

    executable(&root.join("bin/shoutup"), &echo);
    symlink("shoutup", root.join("bin/shoutc")).unwrap();
    assert_eq!(found().await, [], "a shim is not the compiler");
    executable(&root.join("versions/one/bin/shoutc"), &echo);
    assert_eq!(found().await, [], "it requires another program");
    executable(&root.join("versions/one/bin/shout"), &echo);
    let [runtime] = &found().await[..] else { panic!("it should be found") };
    let bin = root.join("versions/one/bin").display().to_string();
    assert_eq!(runtime.compile, [&*format!("{bin}/shoutc"), "-o", "{build}/loud", "{sources}"]);
    assert_eq!(runtime.command, [&*format!("{bin}/shout"), "{build}/loud"]);
    assert_eq!(runtime.compile_environment["QUIET"], "0");
    assert_eq!(runtime.folder(), Some(root.join("versions/one")));

    // What else is in the home folder is nobody's business.
    executable(&root.join("bin/shout"), &echo);
    fs::remove_file(root.join("bin/shoutc")).unwrap();
    executable(&root.join("bin/shoutc"), &echo);
    let first = found().await.remove(0);
    assert_eq!((first.program.clone(), first.folder()), (root.join("bin/shoutc"), Some(root.join("bin/shoutc"))));

    fs::remove_file(search.cache.as_ref().unwrap()).unwrap();
    fs::write(&registry, COMPILED.replace("2.0 stable", "2.0 unstable")).unwrap();
    assert_eq!(found().await, []);
}

#[tokio::test]
async fn mistakes_in_a_compiled_language_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let search = search(folder.path());
    for (from, to, what) in [
        ("[\"{program}\", \"-o\"", "[\"shoutc\", \"-o\"", "compile must begin with"),
        ("\"{sources}\"]", "\"main\"]", "\"{sources}\""),
        ("\"{build}/loud\", \"{s", "\"loud\", \"{s", "must have \"{build}\""),
        ("shout\", \"{build}/loud\"]", "shout\", \"loud\"]", "must have \"{build}\""),
        ("[\"{bin}/shout\", ", "[\"shout\", ", "command must begin with"),
        ("compile = [\"{program}\", \"-o\", \"{build}/loud\", \"{sources}\"]\n", "", "command must begin with"),
    ] {
        assert!(COMPILED.contains(from), "{from}");
        fs::write(search.registry.as_ref().unwrap(), COMPILED.replacen(from, to, 1)).unwrap();
        let error = Runtimes::discover(&search).await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
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
        ("version = []", "version = []\nprepared = \"ruby\"", "python"),
        ("version = [\"talk", "prepared = \"python\"\nversion = [\"talk", "prepared is for"),
        ("version = []", "version = []\nprepared_since = \"new\"", "numbers with dots"),
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

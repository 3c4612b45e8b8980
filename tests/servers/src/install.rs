//! Their programs, below `target/servers/install/`.

use std::{
    env, fs,
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use crate::{Kafka, kafka::archive};

const POM: &str = include_str!("../kafka/pom.xml");
/// What FerretDB is built from.
const FERRETDB: [&str; 4] = [
    include_str!("../ferretdb/go.mod"),
    include_str!("../ferretdb/go.sum"),
    include_str!("../ferretdb/main.go"),
    include_str!("../ferretdb/front.go"),
];

/// The oldest Java that Kafka 4 runs on.
const JAVA: u32 = 17;

/// A program that has to be on the machine, what it is for, and how it gets there.
const PREREQUISITES: [(&str, &str, &str); 3] = [
    ("java", "Apache Kafka", "apt-get install -y default-jre-headless (17 or newer)"),
    ("mvn", "fetching Apache Kafka", "apt-get install -y maven"),
    ("go", "building FerretDB", "install Go 1.26 or newer"),
];

/// The installed programs.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The folder of Kafka's jars.
    pub kafka: PathBuf,
    /// The program that is FerretDB and the front before it.
    pub ferretdb: PathBuf,
}

/// Checks the prerequisites and installs what is missing or of another version. What it runs is shown on standard error.
///
/// # Errors
/// When a prerequisite is missing, with its name and how to install it, or an installation fails.
pub fn install() -> anyhow::Result<Installed> {
    let folder = crate::folder().join("install");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    // Tests are many processes: one of them installs, and the others wait for it.
    let lock = File::create(folder.join("lock")).context("the lock of target/servers/install")?;
    lock.lock().context("the lock of target/servers/install")?;
    let installed = Installed { kafka: folder.join("kafka"), ferretdb: folder.join("ferretdb") };
    stamped(&folder.join("kafka.stamp"), &installed.kafka, POM, || {
        kafka(&installed.kafka)?;
        Kafka::record_classes(&installed)
    })?;
    let sources = FERRETDB.join("\n") + &LOOK_UP.map(|(_, _, to)| to).concat();
    stamped(&folder.join("ferretdb.stamp"), &installed.ferretdb, &sources, || ferretdb(&installed.ferretdb))?;
    Ok(installed)
}

/// Makes a thing unless it is there and was made from the same sources.
fn stamped(stamp: &Path, made: &Path, sources: &str, make: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if made.exists() && fs::read_to_string(stamp).is_ok_and(|have| have == sources) {
        return Ok(());
    }
    if stamp.exists() {
        fs::remove_file(stamp).with_context(|| format!("can't remove {}", stamp.display()))?;
    }
    check_prerequisites()?;
    make()?;
    fs::write(stamp, sources).with_context(|| format!("can't write {}", stamp.display()))
}

fn kafka(libraries: &Path) -> anyhow::Result<()> {
    if libraries.exists() {
        // Jars of another version beside these would be loaded too.
        fs::remove_dir_all(libraries).with_context(|| format!("can't empty {}", libraries.display()))?;
    }
    let archive = archive(libraries);
    if archive.exists() {
        fs::remove_file(&archive).with_context(|| format!("can't remove {}", archive.display()))?;
    }
    run(Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--no-transfer-progress", "-Dstyle.color=never", "--file"])
        .arg(crate::repository().join("tests/servers/kafka/pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libraries.display())))?;
    let complete = fs::read_dir(libraries)?
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().starts_with("kafka_"));
    ensure!(complete, "Maven left no Kafka in {}", libraries.display());
    Ok(())
}

/// What is changed in FerretDB's sources, so that it looks documents up by their ids: the file, what is there, what takes
/// its place. As it is, it reads the whole collection for each.
const LOOK_UP: [(&str, &str, &str); 2] = [
    // It does so only where the filter has nothing else, which no conditional update is. It applies the whole filter
    // afterwards in any case, so the condition may be left out.
    ("collection.go", "if params.Filter.Len() == 1 {", "if params.Filter.Len() >= 1 {"),
    // The index is over `->"_id"`, and SQLite uses it for the same expression only. Both mean the same.
    ("metadata/metadata.go", r#"IDColumn = DefaultColumn + "->'$._id'""#, r#"IDColumn = DefaultColumn + "->\"_id\"""#),
];

fn ferretdb(binary: &Path) -> anyhow::Result<()> {
    let sources = binary.with_file_name("ferretdb-sources");
    if sources.exists() {
        fs::remove_dir_all(&sources).with_context(|| format!("can't empty {}", sources.display()))?;
    }
    fs::create_dir_all(&sources).with_context(|| format!("can't make {}", sources.display()))?;
    for (name, text) in ["go.mod", "go.sum", "main.go", "front.go"].into_iter().zip(FERRETDB) {
        fs::write(sources.join(name), text).with_context(|| format!("can't write {name}"))?;
    }
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(arguments).current_dir(&sources);
        command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOWORK", "off");
        command
    };
    run(&mut go(&["mod", "vendor"]))?;
    for (file, from, to) in LOOK_UP {
        let file = sources.join("vendor/github.com/FerretDB/FerretDB/internal/backends/sqlite").join(file);
        let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        ensure!(text.contains(from), "{} has no {from:?}", file.display());
        fs::write(&file, text.replace(from, to)).with_context(|| format!("can't write {}", file.display()))?;
    }
    run(go(&["build", "-mod=vendor", "-buildvcs=false", "-trimpath", "-tags", "ferretdb_no_postgresql"])
        .args(["-ldflags", "-s -w", "-o"])
        .arg(binary)
        .arg("."))?;
    fs::remove_dir_all(&sources).with_context(|| format!("can't remove {}", sources.display()))
}

fn check_prerequisites() -> anyhow::Result<()> {
    let missing: Vec<String> = PREREQUISITES
        .iter()
        .filter(|(program, ..)| !is_in_path(program))
        .map(|(program, purpose, install)| format!("  {program}, for {purpose}: {install}"))
        .collect();
    ensure!(missing.is_empty(), "the test servers need what is not on this machine:\n{}", missing.join("\n"));
    let said = Command::new("java").arg("-version").stdin(Stdio::null()).output().context("asking java's version")?;
    // It says so on standard error.
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    match java_version(&said) {
        Some(version) if version >= JAVA => Ok(()),
        Some(version) => {
            bail!("Apache Kafka needs Java {JAVA} or newer, and `java` is {version}: {}", PREREQUISITES[0].2)
        }
        None => bail!("`java -version` does not say which it is: {said}"),
    }
}

fn is_in_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// The main version in what `java -version` says: `openjdk version "17.0.15" 2025-04-15`; before 9 it was `"1.8.0"`.
fn java_version(said: &str) -> Option<u32> {
    let quoted = said.split('"').nth(1)?;
    let mut numbers = quoted.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match numbers.next()?.ok()? {
        1 => numbers.next()?.ok(),
        version => Some(version),
    }
}

/// Runs a command with both its outputs on standard error, since standard output is for what a caller asked for.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!("servers: {shown}");
    let output = io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .status()
        .with_context(|| format!("can't start `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_in_both_its_forms() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(java_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(java_version("openjdk version \"25-ea\" 2025-09-16"), Some(25));
        assert_eq!(java_version("java version \"1.8.0_392\""), Some(8));
        assert_eq!(java_version("no java here"), None);
    }

    #[test]
    fn a_thing_is_made_once_and_again_when_its_sources_change_or_it_is_gone() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let (stamp, made) = (folder.path().join("stamp"), folder.path().join("made"));
        let mut times = 0;
        let mut ask = |sources: &str| {
            stamped(&stamp, &made, sources, || {
                times += 1;
                Ok(fs::write(&made, "")?)
            })?;
            anyhow::Ok(times)
        };
        assert_eq!(ask("1")?, 1);
        assert_eq!(ask("1")?, 1);
        assert_eq!(ask("2")?, 2);
        fs::remove_file(&made)?;
        assert_eq!(ask("2")?, 3);
        assert!(stamped(&stamp, &made, "3", || bail!("no")).is_err());
        assert_eq!(ask("2")?, 4, "an installation that failed leaves no stamp");
        Ok(())
    }
}

//! The file that `runmesh run --cases` reads: TOML, or JSON with the same names. `docs/languages.md` describes it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use runmesh_events::to_duration;
use runmesh_proto::{
    event::{CaseOptions, OutputComparison, RunCase},
    execution::ExecutionSpec,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasesFile {
    #[serde(default)]
    comparison: Comparison,
    #[serde(default)]
    stop_on_failure: bool,
    #[serde(default, with = "humantime_serde")]
    total_wall_time: Option<Duration>,
    cases: Vec<Case>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Comparison {
    Exact,
    #[default]
    TrailingWhitespace,
    Tokens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    stdin: Option<String>,
    stdin_file: Option<PathBuf>,
    #[serde(default)]
    args: Vec<String>,
    expected: Option<String>,
    expected_file: Option<PathBuf>,
    #[serde(default, with = "humantime_serde")]
    wall_time: Option<Duration>,
    #[serde(default)]
    memory_bytes: i64,
}

/// Adds the cases of a file to a spec. Files that it names are beside it.
///
/// # Errors
/// When it can't be read or is not what it should be, naming the place.
pub(super) fn add(path: &Path, spec: &mut ExecutionSpec) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read the cases {}", path.display()))?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let file: CasesFile = if is_json {
        serde_json::from_str(&text).map_err(anyhow::Error::from)
    } else {
        toml::from_str(&text).map_err(anyhow::Error::from)
    }
    .with_context(|| format!("the cases {} are not usable", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for (index, case) in file.cases.into_iter().enumerate() {
        let case = case.read(folder).with_context(|| format!("{}: cases[{index}]", path.display()))?;
        spec.cases.push(case);
    }
    if spec.cases.is_empty() {
        bail!("{}: cases is empty", path.display());
    }
    let comparison = match file.comparison {
        Comparison::Exact => OutputComparison::Exact,
        Comparison::TrailingWhitespace => OutputComparison::TrailingWhitespace,
        Comparison::Tokens => OutputComparison::Tokens,
    };
    spec.case_options = Some(CaseOptions {
        comparison: comparison as i32,
        stop_on_failure: file.stop_on_failure,
        total_wall_time: file.total_wall_time.map(to_duration),
    });
    Ok(())
}

impl Case {
    fn read(self, folder: &Path) -> anyhow::Result<RunCase> {
        Ok(RunCase {
            stdin: content(("stdin", self.stdin), ("stdin_file", self.stdin_file), folder)?.unwrap_or_default().into(),
            expected_stdout: content(("expected", self.expected), ("expected_file", self.expected_file), folder)?
                .map(Into::into),
            name: self.name,
            args: self.args,
            wall_time: self.wall_time.map(to_duration),
            memory_bytes: self.memory_bytes,
        })
    }
}

/// What is given as text or in a file.
fn content(
    text: (&str, Option<String>),
    file: (&str, Option<PathBuf>),
    folder: &Path,
) -> anyhow::Result<Option<Vec<u8>>> {
    match (text, file) {
        ((text, Some(_)), (file, Some(_))) => bail!("{text} and {file} are both given"),
        ((_, Some(text)), _) => Ok(Some(text.into_bytes())),
        (_, (name, Some(path))) => {
            let path = folder.join(path);
            fs::read(&path).map(Some).with_context(|| format!("{name}: can't read {}", path.display()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<ExecutionSpec, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("in.txt"), "from a file").unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let mut spec = ExecutionSpec::default();
        add(&path, &mut spec).map(|()| spec).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = r#"
            comparison = "tokens"
            stop_on_failure = true
            total_wall_time = "5m"
            [[cases]]
            name = "one"
            stdin_file = "in.txt"
            args = ["a"]
            expected = ""
            wall_time = "1500ms"
            memory_bytes = 1048576
            [[cases]]
        "#;
        let json = r#"{"comparison": "tokens", "stop_on_failure": true, "total_wall_time": "5m", "cases": [
            {"name": "one", "stdin_file": "in.txt", "args": ["a"], "expected": "", "wall_time": "1500ms",
             "memory_bytes": 1048576}, {}]}"#;
        let spec = read("cases.toml", toml).unwrap();
        assert_eq!(spec, read("cases.json", json).unwrap());
        let [one, two] = &spec.cases[..] else { panic!("{spec:?}") };
        assert_eq!((&one.stdin[..], one.expected_stdout.as_deref()), (&b"from a file"[..], Some(&b""[..])));
        assert_eq!(*two, RunCase::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (name, text, what) in [
            ("c.toml", "", "missing field `cases`"),
            ("c.toml", "cases = []", "cases is empty"),
            ("c.toml", "comparision = 'exact'\ncases = []", "comparision"),
            ("c.toml", "comparison = 'loose'\n[[cases]]", "loose"),
            ("c.toml", "[[cases]]\n[[cases]]\nstdin = 'x'\nstdin_file = 'y'", "cases[1]: stdin and stdin_file"),
            ("c.toml", "[[cases]]\nexpected_file = 'none.txt'", "cases[0]: expected_file"),
            ("c.json", "{\"cases\": [{\"stdln\": \"\"}]}", "stdln"),
            ("c.json", "[[cases]]", "not usable"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
        assert!(add(Path::new("/nowhere/c.toml"), &mut ExecutionSpec::default()).is_err());
    }
}

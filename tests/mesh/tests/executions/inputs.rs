//! What a script is given: files, arguments, environment, a version of its language.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mesh, bash, python};
use runmesh_proto::{
    event::SourceFile,
    execution::{ExecutionSpec, ExecutionState, ListExampleScriptsRequest, ListRuntimesRequest},
};

fn file(path: &str, content: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), content: content.to_owned().into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arguments_and_environment_reach_the_script() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let spec = ExecutionSpec {
        files: vec![
            file(
                "app/main.py",
                "import sys, os\nsys.path.insert(0, '.')\nfrom lib.words import word\nprint(word, sys.argv[1:], os.environ['GREETING'])\n",
            ),
            file("lib/words.py", "word = open('data/word.txt').read()\n"),
            file("data/word.txt", "wörd"),
        ],
        entrypoint: "app/main.py".to_owned(),
        args: vec!["one".to_owned(), "two words".to_owned(), String::new()],
        environment: BTreeMap::from([("GREETING".to_owned(), "grüß dich".to_owned())]),
        ..python("")
    };
    let transcript = mesh.client().await?.run(spec).await?;
    assert_eq!(String::from_utf8(transcript.stdout()?)?, "wörd ['one', 'two words', ''] grüß dich\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_sees_nothing_of_the_node_and_of_other_scripts() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    client.run(bash("echo secret > left-behind; echo secret > \"$TMPDIR/left-behind\"")).await?;
    let transcript = client.run(bash("ls -A; ls -A \"$TMPDIR\"; env | cut -d= -f1 | sort")).await?;
    let seen = String::from_utf8(transcript.stdout()?)?;
    ensure!(!seen.contains("left-behind"), "{seen}");
    for inherited in ["CARGO", "RUST", "PYENV", "XDG"] {
        ensure!(!seen.contains(inherited), "the node's environment is there:\n{seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runtime_runs_as_the_version_it_says() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let runtimes = client.executions.clone().list_runtimes(ListRuntimesRequest {}).await?.into_inner().runtimes;
    ensure!(runtimes.iter().any(|runtime| runtime.language == "python"), "{runtimes:?}");
    ensure!(runtimes.iter().any(|runtime| runtime.language == "bash"), "{runtimes:?}");
    for runtime in &runtimes {
        let of_language = runtimes.iter().filter(|one| one.language == runtime.language);
        ensure!(of_language.filter(|one| one.default).count() == 1, "defaults of {}", runtime.language);
    }
    for runtime in runtimes.into_iter().filter(|runtime| runtime.language == "python") {
        let script = "import sys\nprint('%d.%d.%d' % sys.version_info[:3])";
        let version = runtime.version.clone();
        let transcript = client.run(ExecutionSpec { language_version: version, ..python(script) }).await?;
        assert_eq!(String::from_utf8(transcript.stdout()?)?.trim(), runtime.version);
        // Two numbers are enough to name it, or a newer one of the same two.
        let short = runtime.version.split('.').take(2).collect::<Vec<_>>().join(".");
        let execution = client.create(ExecutionSpec { language_version: short.clone(), ..python("pass") }).await?;
        let resolved = execution.spec.context("no spec")?.language_version;
        ensure!(resolved.starts_with(&format!("{short}.")), "{short} became {resolved}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_script_that_can_run_here_completes() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let runtimes = client.executions.clone().list_runtimes(ListRuntimesRequest {}).await?.into_inner().runtimes;
    let scripts =
        client.executions.clone().list_example_scripts(ListExampleScriptsRequest {}).await?.into_inner().scripts;
    ensure!(!scripts.is_empty(), "there are no examples");
    let mut ran = 0;
    for script in scripts.into_iter().filter(|script| runtimes.iter().any(|one| one.language == script.language)) {
        let spec = ExecutionSpec { language: script.language, script: script.script, ..ExecutionSpec::default() };
        let transcript = client.run(spec).await?;
        let end = transcript.complete()?;
        ensure!(end.state() == ExecutionState::Completed, "{} ended as {end:?}", script.name);
        ensure!(!transcript.stdout()?.is_empty(), "{} shows nothing", script.name);
        ran += 1;
    }
    ensure!(ran > 0, "no example can run here");
    Ok(())
}

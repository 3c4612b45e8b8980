//! What a script sees of the node, and that nothing is left of it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use runmesh_runner::{Collect, Ending, Level, Limit, ProcessConfig, ProcessSandbox, RunSpec, Sandbox};

use crate::harness::{
    Harness, assert_exited, bash, environment_has, finish, group_is_alive, helper, is_alive, next_text, parent,
    processes, spec, until,
};

#[tokio::test]
async fn the_environment_is_clean() {
    let harness = Harness::new();
    let mut spec = spec(&["/usr/bin/env"]);
    spec.environment = [("GREETING", "hello"), ("LANG", "de_DE.UTF-8"), ("RUNMESH_EXECUTION_ID", "forged")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let id = spec.execution_id.clone();
    let finished = harness.run(spec).await;
    let folder = harness.sandbox.root().join(format!("{id}-1"));
    let folder = folder.display();
    let (work, temporary, more) = if crate::AVOID.namespaces {
        (format!("{folder}/work"), format!("{folder}/tmp"), Some(format!("RUNMESH_RUN_FOLDER={folder}")))
    } else {
        ("/work".to_owned(), "/tmp".to_owned(), None)
    };
    let mut lines: Vec<String> = String::from_utf8(finished.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    let mut expected = vec![
        "GREETING=hello".to_owned(),
        format!("HOME={work}"),
        "LANG=de_DE.UTF-8".to_owned(),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        "PYTHONUNBUFFERED=1".to_owned(),
        format!("RUNMESH_EXECUTION_ID={id}"),
    ];
    expected.extend(more);
    expected.push(format!("TMPDIR={temporary}"));
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let file = std::fs::File::open("/dev/null").unwrap();
    // A copy without the close-on-exec flag, as an old library would make it.
    #[allow(unsafe_code, reason = "the standard library makes no such copies")]
    // SAFETY: dup takes a valid descriptor and returns a new one that nobody else owns.
    let inheritable = unsafe { OwnedFd::from_raw_fd(libc::dup(file.as_raw_fd())) };
    let finished = Harness::new().run(spec(&["/bin/ls", "/proc/self/fd"])).await;
    // The fourth is of the listing itself.
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), "0\n1\n2\n3\n");
    drop(inheritable);
}

#[tokio::test]
async fn the_signals_are_as_a_program_expects_them() {
    let finished = Harness::new().run(spec(&["/bin/cat", "/proc/self/status"])).await;
    let status = String::from_utf8(finished.stdout).unwrap();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    // All but 32 and 33, which the C library keeps for its threads.
    assert_eq!(mask("SigIgn:") & !(0b11 << 31), 0);
}

#[tokio::test]
async fn nothing_is_left_after_a_run() {
    let harness = Harness::new();
    let script = "mkdir -p a/b; touch a/b/c $TMPDIR/d; ln -s / root; chmod 000 a; (sleep 1000 >&- 2>&- &) ; echo out";
    let run = harness.start(bash(script)).await;
    let group = run.started().pid.unwrap();
    let finished = finish(run).await;
    assert_exited(&finished, 0);
    until("the folder should be gone", || harness.folders().is_empty()).await;
    assert!(std::path::Path::new("/etc").exists());
    until("the group should be gone", || !group_is_alive(group)).await;
}

#[tokio::test]
async fn folders_nested_deeper_than_any_path_are_removed() {
    let harness = Harness::new();
    let finished = harness.run(spec(&["/usr/bin/perl", "-e", "for (1 .. 3000) { mkdir 'd'; chdir 'd' or die }"])).await;
    assert_exited(&finished, 0);
    until("the folder should be gone", || harness.folders().is_empty()).await;
}

#[tokio::test]
async fn dropping_a_run_kills_it_and_removes_its_folder() {
    let harness = Harness::new();
    let mut run = harness.start(bash("trap '' TERM; sleep 1000 & echo ready; while :; do :; done")).await;
    let group = run.started().pid.unwrap();
    assert_eq!(next_text(&mut run).await, "ready\n");
    drop(run);
    until("the group should be gone", || !group_is_alive(group)).await;
    until("the folder should be gone", || harness.folders().is_empty()).await;
}

#[tokio::test]
async fn dropping_a_start_leaves_nothing() {
    let harness = Harness::new();
    for _ in 0..20 {
        let spec = bash("sleep 1000");
        let mark = format!("RUNMESH_EXECUTION_ID={}", spec.execution_id);
        let start = harness.sandbox.start(spec);
        // Polled once, then dropped.
        tokio::select! { biased; _ = start => {}, () = std::future::ready(()) => {} }
        until("the folder should be gone", || harness.folders().is_empty()).await;
        until("the process should be gone", || !processes().into_iter().any(|pid| environment_has(pid, &mark))).await;
    }
}

#[test]
fn a_runtime_that_shuts_down_leaves_nothing() {
    let harness = Harness::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let run = runtime.block_on(harness.start(bash("trap '' TERM; sleep 1000 & while :; do :; done")));
    let group = run.started().pid.unwrap();
    drop(runtime);
    assert!(!is_alive(group));
    assert!(harness.folders().is_empty());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(matches!(runtime.block_on(run.wait()).ending, Ending::Failed { .. }));
}

#[tokio::test]
async fn recovery_ends_what_a_killed_node_left_and_nothing_of_others() {
    let root = tempfile::tempdir().unwrap();
    let runs = root.path().join("runs");
    let folder = runs.join("left-1");
    std::fs::create_dir_all(folder.join("work")).unwrap();
    // As a node would have started them, had it been killed since.
    let leftover = |folder: &std::path::Path, script: &str| {
        let mut command = Command::new("/bin/bash");
        command.args(["-c", script]).env("RUNMESH_EXECUTION_ID", "left").env("RUNMESH_RUN_FOLDER", folder);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut mine = leftover(&folder, "trap '' TERM; setsid sleep 1000 & echo $!; while :; do :; done");
    let mut other = leftover(&root.path().join("elsewhere/left-1"), "echo; sleep 1000");
    let read_line = |child: &mut std::process::Child| {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        line.trim().parse::<u32>().unwrap_or(0)
    };
    let escaped = read_line(&mut mine);
    read_line(&mut other);
    assert!(is_alive(escaped) && is_alive(mine.id()));

    let sandbox = ProcessSandbox::open(ProcessConfig { helper: helper(), ..ProcessConfig::new(&runs) }).unwrap();
    let recovered = sandbox.recover().await.unwrap();
    assert!(recovered.processes >= 2 && recovered.folders == 1, "{recovered:?}");
    until("the leftovers should be gone", || !is_alive(escaped) && !is_alive(mine.id())).await;
    assert!(!folder.exists());
    assert!(is_alive(other.id()));
    other.kill().unwrap();
    other.wait().unwrap();
    mine.wait().unwrap();
    assert_eq!(sandbox.recover().await.unwrap(), runmesh_runner::Recovered::default());
}

#[tokio::test]
async fn a_helper_that_is_killed_takes_its_runs_with_it_and_is_started_again() {
    let harness = Harness::new();
    let mut run = harness.start(bash("echo ready; sleep 1000")).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    let main = run.started().pid.unwrap();
    // The script's parent is the first process of its sandbox, and that one's is the helper.
    let helper = parent(parent(main).unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(format!("/proc/{helper}/comm")).unwrap(), "sandbox-helper\n");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(helper as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let ending = finish(run).await.outcome.ending;
    assert!(matches!(ending, Ending::Failed { .. }), "{ending:?}");
    until("the script should be gone", || !is_alive(main)).await;
    // Those that waited in the pool are gone too; one of them may be taken before that is known.
    let mut spec = bash("echo again");
    let again = loop {
        match harness.sandbox.start(spec.clone()).await {
            Ok(run) => break finish(run).await,
            Err(error) => assert!(matches!(error, runmesh_runner::SandboxError::Setup { .. }), "{error}"),
        }
        spec.attempt += 1;
    };
    assert_exited(&again, 0);
    assert_eq!(again.stdout, b"again\n");
}

#[tokio::test]
async fn a_strict_run_is_refused_where_a_limit_does_not_hold_in_full() {
    let harness = Harness::new();
    let mut spec = bash("true");
    spec.limits.cpu_millis = Some(500);
    spec.strict = true;
    let missing: Vec<Limit> = harness
        .sandbox
        .receipt(&spec.limits)
        .iter()
        .filter(|line| !line.holds() && !line.asked.is_empty())
        .map(|line| line.limit)
        .collect();
    match harness.sandbox.start(spec.clone()).await {
        Ok(run) => {
            assert_eq!(missing, []);
            assert_exited(&finish(run).await, 0);
        }
        Err(runmesh_runner::SandboxError::NotEnforced { missing: told }) => {
            assert_eq!(told.iter().map(|line| line.limit).collect::<Vec<_>>(), missing);
            assert!(missing.contains(&Limit::Cpu));
        }
        Err(other) => panic!("{other}"),
    }
    // Without cgroups there is nothing that could hold a share of a processor.
    let harness = Harness::with(|config| config.avoid.cgroups = true);
    let error = harness.sandbox.start(spec).await.unwrap_err();
    assert!(error.to_string().contains("cpu_millis"), "{error}");
}

#[tokio::test]
async fn what_a_compiler_made_is_given_back_and_can_be_run() {
    let harness = Harness::new();
    let mut spec = bash("mkdir out; printf '#!/bin/sh\\necho made\\n' > out/program; echo x > other");
    spec.collect = Some(Collect { folder: "out".to_owned(), files: 4, bytes: 1 << 20 });
    let made = harness.run(spec.clone()).await.outcome.collected;
    assert_eq!(made.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["out/program"]);
    let next = RunSpec { command: vec!["./out/program".to_owned()], files: made, collect: None, ..spec };
    let finished = harness.run(RunSpec { part: "run".to_owned(), ..next }).await;
    assert_eq!(finished.stdout, b"made\n");
}

#[tokio::test]
async fn the_receipt_tells_what_holds() {
    let harness = Harness::new();
    let spec = bash("true");
    let told = harness.sandbox.receipt(&spec.limits);
    let finished = harness.run(spec).await;
    let limits: Vec<Limit> = finished.outcome.receipt.iter().map(|line| line.limit).collect();
    assert_eq!(limits, Limit::ALL);
    assert_eq!(told, finished.outcome.receipt);
    if !crate::AVOID.namespaces {
        assert_eq!(harness.sandbox.refusals(), [""; 0], "this machine should allow it");
    }
    for line in &finished.outcome.receipt {
        assert_eq!(line.level == Level::None, line.mechanism.is_empty(), "{line:?}");
        assert_eq!(line.level == Level::Full, line.reason.is_empty(), "{line:?}");
    }
}

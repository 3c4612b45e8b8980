//! What a script sees of the node, and that nothing is left of it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use runmesh_runner::{Ending, HelperCommand, ProcessConfig, ProcessSandbox, RunSpec, Sandbox, SandboxError};

use crate::harness::{
    Harness, assert_exited, bash, finish, group_is_alive, helper, is_alive, limited, next_text, parent, spec, until,
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
    // Under nohup, say, the node ignores one.
    let harness = Harness::with(|config| {
        let HelperCommand { program, arguments } = std::mem::take(&mut config.helper);
        let arguments = ["--ignore-signal=HUP".into(), program.into()].into_iter().chain(arguments).collect();
        config.helper = HelperCommand { program: "/usr/bin/env".into(), arguments };
    });
    let finished = harness.run(spec(&["/bin/cat", "/proc/self/status"])).await;
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
async fn a_script_changes_nothing_of_the_node() {
    // prlimit64, RLIMIT_CORE, setpriority, sched_setscheduler to SCHED_IDLE: of this process, and of its own parent.
    let script = "my ($limit, $policy) = (pack('QQ', 0, 0), pack('i', 0));
    for my $pid (@ARGV, getppid) {
        print 'limit ' if syscall(302, $pid + 0, 4, $limit, 0) != -1;
        print 'priority ' if syscall(141, 0, $pid + 0, 5) != -1;
        print 'scheduler ' if $pid == $ARGV[0] and syscall(144, $pid + 0, 5, $policy) != -1;
    }
    print 'own' if syscall(302, 0, 4, $limit, 0) != -1 and syscall(302, $$ + 0, 4, 0, $limit) != -1";
    let finished = Harness::new().run(spec(&["/usr/bin/perl", "-e", script, &std::process::id().to_string()])).await;
    assert_eq!(String::from_utf8_lossy(&finished.stdout), "own", "{}", String::from_utf8_lossy(&finished.stderr));
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
async fn cgroups_of_a_node_that_is_no_more_are_removed_and_those_of_a_living_one_are_not() {
    let living = Harness::new();
    let Some(beside) = living.sandbox.cgroup_folders().first().and_then(|own| own.parent().map(ToOwned::to_owned))
    else {
        return;
    };
    let number = std::process::id();
    let named = |name: &str| beside.join(name);
    let orphan = named(&format!("runmesh-{number:016x}"));
    let others = [named(&format!("runmesh-{number}")), named(&format!("other-{number:016x}"))];
    for folder in [&orphan.join("run-0"), &others[0], &others[1]] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let next = Harness::new();
    let there = [&living, &next].map(|one| one.sandbox.cgroup_folders().iter().all(|folder| folder.exists()));
    let is_there = [orphan.exists(), others[0].exists(), others[1].exists()];
    for folder in &others {
        std::fs::remove_dir(folder).unwrap();
    }
    assert_eq!((there, is_there), ([true, true], [false, true, true]));
    assert_exited(&living.run(bash("true")).await, 0);
}

#[tokio::test]
async fn what_is_closed_leaves_nothing_and_starts_nothing() {
    let harness = Harness::new();
    assert_exited(&harness.run(bash("true")).await, 0);
    until("a sandbox should wait", || harness.sandbox.ready() > 0).await;
    harness.sandbox.close().await;
    assert_eq!(harness.sandbox.ready(), 0);
    assert!(harness.sandbox.cgroup_folders().iter().all(|folder| !folder.exists()));
    let refused = harness.sandbox.start(bash("true")).await;
    assert!(matches!(refused, Err(SandboxError::ShuttingDown)), "{refused:?}");
    assert!(harness.sandbox.cgroup_folders().iter().all(|folder| !folder.exists()));
}

#[tokio::test]
async fn folders_nested_deeper_than_any_path_are_removed() {
    let harness = Harness::new();
    let finished = harness.run(spec(&["/usr/bin/perl", "-e", "for (1 .. 3000) { mkdir 'd'; chdir 'd' or die }"])).await;
    assert_exited(&finished, 0);
    until("the folder should be gone", || harness.folders().is_empty()).await;
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
async fn without_cgroups_nothing_holds_a_share_of_a_processor() {
    let harness = Harness::with(|config| config.avoid.cgroups = true);
    let spec = RunSpec { strict: true, ..limited(bash("true"), |limits| limits.cpu_millis = Some(500)) };
    let error = harness.sandbox.start(spec).await.unwrap_err();
    assert!(error.to_string().contains("cpu_millis"), "{error}");
}

#[test]
fn the_best_isolation_is_found() {
    let refusals = Harness::new().sandbox.refusals().to_vec();
    assert!(crate::AVOID.namespaces || refusals.is_empty(), "this machine should allow it: {refusals:?}");
}

//! Attacks with processes and signals.

use std::time::Duration;

use runmesh_runner::{Ending, Limit};

use crate::attack::{assert_ending, attack, attack_with, counted, limited, perl, text};
use crate::harness::{Harness, bash, mark, marked, next_text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb() {
    let harness = Harness::new();
    let spec = limited(perl("fork while 1"), |limits| {
        limits.processes = Some(40);
        // Where refusals are counted they end it.
        limits.wall_time = Duration::from_secs(if counted(&harness, Limit::Processes) { 60 } else { 3 });
    });
    let mark = mark(&spec);
    let finished = attack_with(&harness, spec, async |_| {
        // As long as it takes to see whether it grows beyond its limit.
        for _ in 0..20 {
            let count = marked(&mark).len();
            assert!(count <= 41, "{count} processes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    if counted(&harness, Limit::Processes) {
        let ending = &finished.outcome.ending;
        assert!(matches!(ending, Ending::ProcessLimit { refused } if *refused > 1000), "{ending:?}");
    } else {
        assert_ending(&finished, Ending::TimedOut);
    }
}

#[tokio::test]
async fn a_fork_bomb_in_a_shell() {
    let harness = Harness::new();
    let spec = limited(bash(":(){ :|:& };:; wait"), |limits| {
        limits.processes = Some(40);
        limits.wall_time = Duration::from_secs(3);
    });
    let finished = attack(&harness, spec).await;
    // The shells that were refused another give up or try again; which of them the kernel refuses is chance.
    let ending = &finished.outcome.ending;
    assert!(matches!(ending, Ending::ProcessLimit { .. } | Ending::TimedOut | Ending::Exited(_)), "{ending:?}");
}

#[tokio::test]
async fn a_bomb_of_threads() {
    let harness = Harness::new();
    let script = "import threading, time\nn = 0\ntry:\n    while True:\n        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\nexcept RuntimeError:\n    print(n, flush=True)\n    import os; os._exit(9)\n";
    let spec = limited(perl(""), |limits| limits.processes = Some(30));
    let mut spec =
        runmesh_runner::RunSpec { command: vec!["/usr/bin/python3".to_owned(), "main.py".to_owned()], ..spec };
    spec.files = vec![runmesh_runner::SourceFile { path: "main.py".to_owned(), content: script.to_owned().into() }];
    let finished = attack(&harness, spec).await;
    assert_eq!(text(&finished), "29\n");
    if counted(&harness, Limit::Processes) {
        assert!(matches!(finished.outcome.ending, Ending::ProcessLimit { .. }));
    } else {
        assert_ending(&finished, Ending::Exited(9));
    }
}

#[tokio::test]
async fn daemons_that_outlive_the_main_process() {
    let script = "
        for (1 .. 5) {
            next if fork;
            POSIX::setsid(); exit if fork;
            open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null'; close STDIN;
            $SIG{$_} = 'IGNORE' for qw(TERM HUP INT);
            sleep 1000;
        }
        print 'done'";
    let finished = attack(&Harness::new(), perl(&format!("use POSIX ();{script}"))).await;
    assert_ending(&finished, Ending::Exited(0));
    assert_eq!(text(&finished), "done");
}

#[tokio::test]
async fn signals_to_everyone() {
    // Its own main process is among those it reaches; the node is not.
    let finished = attack(&Harness::new(), perl("kill 'KILL', -1; kill 'KILL', $$; sleep 1000")).await;
    assert_ending(&finished, Ending::Signaled(libc::SIGKILL));
}

#[tokio::test]
async fn signals_to_the_first_process_of_the_sandbox() {
    let script = "kill $_, 1, getppid for qw(KILL STOP TERM SEGV); print 'still here'; exit 3";
    let finished = attack(&Harness::new(), perl(script)).await;
    assert_ending(&finished, Ending::Exited(3));
    assert_eq!(text(&finished), "still here");
}

#[tokio::test]
async fn ignoring_the_request_to_end() {
    let harness = Harness::with(|config| config.cancel_grace = Duration::from_millis(100));
    let script = "$SIG{TERM} = 'IGNORE'; $| = 1; print \"ready\\n\"; 1 while 1";
    let finished = attack_with(&harness, perl(script), async |run| {
        assert_eq!(next_text(run).await, "ready\n");
        run.canceller().cancel();
    })
    .await;
    assert_ending(&finished, Ending::Cancelled { forced: true });
}

#[tokio::test]
async fn closing_the_output_and_going_on() {
    let spec = limited(perl("close STDOUT; close STDERR; sleep 1000"), |limits| {
        limits.wall_time = Duration::from_millis(300);
    });
    assert_ending(&attack(&Harness::new(), spec).await, Ending::TimedOut);
}

#[tokio::test]
async fn writing_after_the_end() {
    let script =
        "$| = 1; print 'main'; exit 0 if fork; while (1) { print 'x' x 1000; select undef, undef, undef, 0.001 }";
    let harness = Harness::new();
    let finished = attack(&harness, perl(script)).await;
    assert_ending(&finished, Ending::Exited(0));
    assert!(text(&finished).contains("main"));
    assert!(finished.outcome.usage.wall < Duration::from_secs(5));
}

#[tokio::test]
async fn stopping_itself() {
    let spec = limited(perl("kill 'STOP', $$"), |limits| limits.wall_time = Duration::from_millis(300));
    assert_ending(&attack(&Harness::new(), spec).await, Ending::TimedOut);
}

#[tokio::test]
async fn sleeping_for_ever() {
    let spec = limited(perl("sleep 100000"), |limits| limits.wall_time = Duration::from_millis(300));
    assert_ending(&attack(&Harness::new(), spec).await, Ending::TimedOut);
}

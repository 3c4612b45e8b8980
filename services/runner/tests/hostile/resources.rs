//! Attacks on memory, processors, disk and output.

use std::time::{Duration, Instant};

use runmesh_runner::{Ending, Limit};

use crate::attack::{assert_ending, attack, counted, limited, perl, text};
use crate::harness::{Harness, bash, spec};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_memory_hog_that_touches_its_pages() {
    let harness = Harness::new();
    let spec = limited(perl("my @a; push @a, 'x' x 1048576 while 1"), |limits| limits.memory_bytes = Some(64 * MIB));
    let finished = attack(&harness, spec).await;
    let Ending::OutOfMemory { evidence } = &finished.outcome.ending else { panic!("{:?}", finished.outcome.ending) };
    assert_eq!(evidence.contains("the kernel killed"), counted(&harness, Limit::Memory), "{evidence}");
    // Without a cgroup the program itself and its libraries come on top.
    let most = if counted(&harness, Limit::Memory) { 64 } else { 80 };
    assert!(finished.outcome.usage.peak_memory_bytes.unwrap() <= most * MIB, "{:?}", finished.outcome.usage);
}

#[tokio::test]
async fn a_memory_hog_in_many_processes() {
    let harness = Harness::new();
    // Each by itself is within the limit.
    let script =
        "for (1 .. 8) { next if fork; my $x = 'x' x (24 << 20); sleep 2; exit 0 } 1 while wait > 0; exit($? ? 1 : 0)";
    let spec = limited(
        perl(&format!(
            "my $bad = 0; {}",
            script.replace("1 while wait > 0; exit($? ? 1 : 0)", "while (wait > 0) { $bad = 1 if $? } exit $bad")
        )),
        |limits| {
            limits.memory_bytes = Some(64 * MIB);
        },
    );
    let finished = attack(&harness, spec).await;
    if counted(&harness, Limit::Memory) {
        assert!(matches!(finished.outcome.ending, Ending::OutOfMemory { .. }), "{:?}", finished.outcome.ending);
    } else {
        // The receipt says that each process is limited by itself.
        assert_ending(&finished, Ending::Exited(0));
        let line = finished.outcome.receipt.iter().find(|line| line.limit == Limit::Memory).unwrap();
        assert!(!line.holds() && line.mechanism.contains("each process"), "{line:?}");
    }
}

#[tokio::test]
async fn a_memory_hog_that_touches_nothing() {
    // mmap: 10 GiB, private, anonymous, without reserve.
    let script = "my $at = syscall(9, 0, 10 << 30, 3, 0x4022, -1, 0); print $at == -1 ? 'refused' : 'mapped'";
    let spec = limited(perl(script), |limits| limits.memory_bytes = Some(64 * MIB));
    let harness = Harness::new();
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::Exited(0));
    assert_eq!(text(&finished), if counted(&harness, Limit::Memory) { "mapped" } else { "refused" });
    assert!(finished.outcome.usage.peak_memory_bytes.unwrap() < 64 * MIB);
}

#[tokio::test]
async fn a_memory_hog_in_the_buffers_of_sockets() {
    let harness = Harness::new();
    // Nobody reads from them; each pair would take some MiB of the kernel's own memory.
    let script = "use Socket; use IO::Handle; my @all; my $sent = 0;
        for (1 .. 40) {
            socket(my $listener, PF_INET, SOCK_STREAM, 0) or last;
            bind($listener, sockaddr_in(0, INADDR_LOOPBACK)) && listen($listener, 1) or last;
            socket(my $one, PF_INET, SOCK_STREAM, 0) or last;
            setsockopt($one, SOL_SOCKET, SO_SNDBUF, pack('i', 4 << 20));
            connect($one, getsockname($listener)) && accept(my $other, $listener) or last;
            $one->blocking(0);
            while (my $count = syswrite($one, 'x' x 65536)) { $sent += $count }
            push @all, $listener, $one, $other;
        }
        print $sent >> 20";
    let spec = limited(perl(script), |limits| limits.memory_bytes = Some(64 * MIB));
    let finished = attack(&harness, spec).await;
    if counted(&harness, Limit::Memory) {
        let mebibytes: u64 = text(&finished).parse().unwrap_or(0);
        assert!(mebibytes <= 64, "{mebibytes} MiB are in buffers: {:?}", finished.outcome.ending);
    }
}

#[tokio::test]
async fn a_memory_hog_in_files() {
    let harness = Harness::new();
    let script = "for file in a b c d; do head -c 40000000 /dev/zero > $file || exit 1; done; ls | wc -l";
    let spec = limited(bash(script), |limits| {
        limits.memory_bytes = Some(64 * MIB);
        limits.disk_bytes = Some(512 * MIB);
    });
    let finished = attack(&harness, spec).await;
    if counted(&harness, Limit::Memory) {
        assert!(matches!(finished.outcome.ending, Ending::OutOfMemory { .. }), "{:?}", finished.outcome.ending);
    } else {
        assert_ending(&finished, Ending::Exited(0));
    }
}

#[tokio::test]
async fn a_busy_loop() {
    let harness = Harness::new();
    let spec = limited(perl("1 while 1"), |limits| limits.cpu_time = Some(Duration::from_millis(300)));
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::CpuTimedOut);
    let used = finished.outcome.usage.cpu_user + finished.outcome.usage.cpu_system;
    // Limits of each process are in whole seconds.
    let most = if counted(&harness, Limit::CpuTime) { 0.6 } else { 1.5 };
    assert!(used.as_secs_f64() >= 0.25 && used.as_secs_f64() < most, "{used:?}");
}

#[tokio::test]
async fn busy_loops_in_many_processes() {
    let harness = Harness::new();
    let spec = limited(perl("fork, fork; 1 while 1"), |limits| {
        limits.cpu_time = Some(Duration::from_millis(400));
        limits.wall_time = Duration::from_secs(25);
    });
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::CpuTimedOut);
    let used = finished.outcome.usage.cpu_user + finished.outcome.usage.cpu_system;
    if counted(&harness, Limit::CpuTime) {
        assert!(used.as_secs_f64() < 0.8, "{used:?}");
    }
}

#[tokio::test]
async fn more_than_its_share_of_a_processor() {
    let harness = Harness::new();
    let spec = limited(perl("fork, fork; 1 while 1"), |limits| {
        limits.cpu_millis = Some(200);
        limits.wall_time = Duration::from_secs(1);
    });
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::TimedOut);
    let usage = &finished.outcome.usage;
    let share = (usage.cpu_user + usage.cpu_system).as_secs_f64() / usage.wall.as_secs_f64();
    if counted(&harness, Limit::Cpu) {
        assert!(share < 0.35, "{usage:?}");
    }
}

#[tokio::test]
async fn an_output_flood() {
    let harness = Harness::new();
    let spec = limited(bash("yes & yes >&2"), |limits| limits.output_bytes = 1_000_000);
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::OutputLimit);
    assert_eq!(finished.stdout.len() + finished.stderr.len(), 1_000_000);
}

#[tokio::test]
async fn a_million_small_files() {
    let harness = Harness::new();
    let script = "for (1 .. 1_000_000) { open my $f, '>', \"left-by-attack-$_\" or do { print $_; exit 1 } }";
    let finished = attack(&harness, perl(script)).await;
    assert_ending(&finished, Ending::DiskLimit);
    let made: u64 = text(&finished).parse().unwrap();
    assert!((50_000..65_536).contains(&made), "{made}");
}

#[tokio::test]
async fn a_huge_sparse_file() {
    let harness = Harness::new();
    let finished = attack(&harness, spec(&["/usr/bin/truncate", "-s", "1T", "left-by-attack"])).await;
    assert_ending(&finished, Ending::FileSizeLimit);
    // One that copes with the signal gets an error.
    let script = "$SIG{XFSZ} = 'IGNORE'; open my $f, '>', 'big'; print truncate($f, 1 << 40) ? 'made' : 'refused'";
    let finished = attack(&harness, perl(script)).await;
    assert_eq!(text(&finished), "refused");
}

#[tokio::test]
async fn a_full_disk() {
    let harness = Harness::new();
    let script = "for file in a b c; do head -c 20000000 /dev/zero > $file || exit 1; done";
    let spec = limited(bash(script), |limits| limits.disk_bytes = Some(32 * MIB));
    let finished = attack(&harness, spec).await;
    assert_ending(&finished, Ending::DiskLimit);
    // What is in /tmp and /dev/shm counts too.
    let script = "head -c 20000000 /dev/zero > /tmp/a && head -c 20000000 /dev/zero > /dev/shm/b";
    let spec = limited(bash(script), |limits| limits.disk_bytes = Some(32 * MIB));
    assert_ending(&attack(&harness, spec).await, Ending::DiskLimit);
}

#[tokio::test]
async fn many_attacks_at_once_end_all_the_same() {
    let harness = Harness::new();
    let since = Instant::now();
    let mut runs = Vec::new();
    for _ in 0..6 {
        for script in ["fork while 1", "my @a; push @a, 'x' x 1048576 while 1", "1 while 1"] {
            let spec = limited(perl(script), |limits| {
                limits.processes = Some(20);
                limits.memory_bytes = Some(32 * MIB);
                limits.wall_time = Duration::from_secs(2);
            });
            runs.push(harness.start(spec).await);
        }
    }
    for run in runs {
        let ending = crate::harness::finish(run).await.outcome.ending;
        assert!(
            matches!(ending, Ending::ProcessLimit { .. } | Ending::OutOfMemory { .. } | Ending::TimedOut),
            "{ending:?}"
        );
    }
    assert!(since.elapsed() < Duration::from_secs(30));
    attack(&harness, bash("true")).await;
}

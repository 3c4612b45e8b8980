//! Attacks on the kernel's interfaces.

use runmesh_runner::Ending;

use crate::attack::{assert_ending, attack, perl, text};
use crate::harness::{Harness, bash};

/// System calls by their numbers on x86-64, with arguments with which they would do harm.
const CALLS: &[(&str, &str)] = &[
    ("mount", "165, 'none', '/tmp', 'tmpfs', 0, 0"),
    ("umount2", "166, '/proc', 2"),
    ("pivot_root", "155, '/tmp', '/tmp'"),
    ("chroot", "161, '/tmp'"),
    ("unshare a user namespace", "272, 0x10000000"),
    ("unshare a mount namespace", "272, 0x20000"),
    ("setns", "308, 0, 0"),
    ("clone into a user namespace", "56, 0x10000011, 0, 0, 0, 0"),
    ("clone3", "435, 0, 88"),
    ("open_tree", "428, -100, '/', 1"),
    ("fsopen", "430, 'tmpfs', 0"),
    ("setuid", "105, 0"),
    ("setresuid", "117, 0, 0, 0"),
    ("setgid", "106, 0"),
    ("setgroups", "116, 0, 0"),
    ("ptrace attach", "101, 16, 1, 0, 0"),
    ("ptrace traceme", "101, 0, 0, 0, 0"),
    ("process_vm_readv", "310, 1, 0, 0, 0, 0, 0"),
    ("pidfd_getfd", "438, 0, 0, 0"),
    ("kcmp", "312, 1, 1, 0, 0, 0"),
    ("keyctl", "250, 0, -3, 1"),
    ("add_key", "248, 'user', 'x', 'y', 1, -3"),
    ("request_key", "249, 'user', 'x', 0, -3"),
    ("bpf", "321, 0, 0, 0"),
    ("perf_event_open", "298, 0, 0, -1, -1, 0"),
    ("io_uring_setup", "425, 1, 0"),
    ("userfaultfd", "323, 1"),
    ("kexec_load", "246, 0, 0, 0, 0"),
    ("init_module", "175, 0, 0, ''"),
    ("delete_module", "176, 'x', 0"),
    ("reboot", "169, 0, 0, 0, 0"),
    ("swapon", "167, '/tmp', 0"),
    ("acct", "163, 0"),
    ("sethostname", "170, 'x', 1"),
    ("settimeofday", "164, 0, 0"),
    ("clock_settime", "227, 0, 0"),
    ("syslog", "103, 3, 0, 0"),
    ("iopl", "172, 3"),
    ("modify_ldt", "154, 0, 0, 0"),
    ("open_by_handle_at", "304, -100, 0, 0"),
    ("name_to_handle_at", "303, -100, '/', 0, 0, 0"),
    ("fanotify_init", "300, 0, 0"),
    ("quotactl", "179, 0, 0, 0, 0"),
    ("vhangup", "153"),
    ("personality", "135, 0x0040000 | 8"),
    ("mknod of a device", "133, '/tmp/left-by-attack', 0x2000 | 0666, 259"),
    ("raw socket", "41, 2, 3, 255"),
    ("raw socket 6", "41, 10, 3, 255"),
    ("packet socket", "41, 17, 3, 768"),
    ("netlink socket", "41, 16, 3, 0"),
    ("vsock", "41, 40, 1, 0"),
    ("alg socket", "41, 38, 5, 0"),
    ("sched_setscheduler to real time", "144, 0, 1, pack('i', 50)"),
    ("prlimit of the sandbox's first process", "302, 1, 4, pack('QQ', 0, 0), 0"),
    ("setpriority of the sandbox's first process", "141, 0, 1, 5"),
    ("setpriority of all of a user's processes", "141, 2, 0, 5"),
    ("ioprio_set of the sandbox's first process", "251, 1, 1, 0x4007"),
    ("io_setup", "206, 1, pack('Q', 0)"),
    ("mmap of huge pages", "9, 0, 2097152, 3, 0x40022, -1, 0"),
    ("shmget of huge pages", "29, 0, 2097152, 07600"),
    ("memfd_create of huge pages", "319, 'x', 4"),
    ("setpriority above others", "141, 0, 0, -10"),
    ("x32 getpid", "0x40000000 | 39"),
];

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn forbidden_system_calls() {
    let calls: String = CALLS
        .iter()
        // Perl passes numbers as numbers and strings by address, but no constant strings.
        .map(|(name, call)| {
            let parts: Vec<&str> = call.split('\'').collect();
            let strings = |(place, part): (usize, &&str)| {
                if place % 2 == 1 { format!("\"{part}$empty\"") } else { (*part).to_owned() }
            };
            let call: String = parts.iter().enumerate().map(strings).collect();
            format!("print \"{name}\\n\" if syscall({call}) != -1;\n")
        })
        .collect();
    let finished = attack(&Harness::new(), perl(&format!("$| = 1; my $empty = '';\n{calls}print 'end';"))).await;
    assert_ending(&finished, Ending::Exited(0));
    assert_eq!(text(&finished), "end", "these were let through");
}

#[tokio::test]
async fn privileges_are_gone() {
    let finished = attack(&Harness::new(), bash("cat /proc/self/status")).await;
    let status = text(&finished);
    for expected in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.lines().any(|line| line == expected), "{expected} in {status}");
    }
    assert!(!status.lines().any(|line| line.starts_with("Uid:") && line.split('\t').any(|id| id == "0")), "{status}");
}

#[tokio::test]
async fn programs_with_a_set_user_id_bit() {
    let script = "for program in su passwd mount chsh newgrp; do
        [ -u /usr/bin/$program ] || continue
        echo found
        /usr/bin/$program -c id </dev/null 2>/dev/null | grep -q uid=0 && echo $program
    done; exit 0";
    let finished = attack(&Harness::new(), bash(script)).await;
    assert_ending(&finished, Ending::Exited(0));
    assert!(text(&finished).lines().all(|line| line == "found"), "{}", text(&finished));
}

#[tokio::test]
async fn places_that_may_not_be_written() {
    let script = "for place in / /usr /usr/bin /etc /bin /lib /proc /proc/sys/kernel /dev /root; do
            [ -d $place ] && touch $place/left-by-attack 2>/dev/null && echo $place
        done
        for file in /etc/passwd /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/self/oom_score_adj /proc/1/oom_score_adj; do
            (echo 0 > $file) 2>/dev/null && echo $file
        done
        exit 0";
    let finished = attack(&Harness::new(), bash(script)).await;
    assert_ending(&finished, Ending::Exited(0));
    assert_eq!(text(&finished), "");
}

#[tokio::test]
async fn devices_and_the_control_file_systems() {
    let script = "ls /dev; ls -d /sys/* /sys/fs/cgroup/* /run/* /var/* /home/* /mnt /media /boot 2>/dev/null; exit 0";
    let finished = attack(&Harness::new(), bash(script)).await;
    let expected = "fd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\n";
    assert_eq!(text(&finished), expected);
}

#[tokio::test]
async fn what_programs_need_works() {
    // The other side of all this.
    let script = "set -e
        echo out > /dev/stdout; echo err > /dev/stderr; echo x > /dev/null
        head -c 4 /dev/urandom | wc -c
        cat <(echo substituted)
        echo file > /tmp/file; mkdir -p sub/dir; mv /tmp/file sub/dir/file; cat sub/dir/file
        ln -s sub/dir/file link; cat link; chmod 700 link; mkfifo pipe
        (sleep 0.01; echo through > pipe) & cat pipe; wait
        [ $(id -u) != 0 ]; [ \"$(pwd)\" = \"$HOME\" ]; hostname
        ulimit -c; ls /proc/self/fd | wc -l
        perl -MIO::Socket -e 'socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die; print \"pair\\n\"'
        perl -MIO::Socket -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\") or die $!;
            $c = IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => $s->sockport) or die $!; print \"own loopback\\n\"'
        kill -0 $$ && echo signals";
    let finished = attack(&Harness::new(), bash(script)).await;
    assert_ending(&finished, Ending::Exited(0));
    let expected = "out\n4\nsubstituted\nfile\nfile\nthrough\nsandbox\n0\n4\npair\nown loopback\nsignals\n";
    assert_eq!(text(&finished), expected);
    assert_eq!(finished.stderr, b"err\n");
}

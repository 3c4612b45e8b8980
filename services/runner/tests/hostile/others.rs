//! Attacks on what belongs to others: files, processes, sockets, other runs.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use runmesh_runner::{Collect, Ending, RunSpec};

use crate::attack::{assert_ending, attack, perl, text};
use crate::harness::{Harness, bash, finish, next_text};

#[tokio::test]
async fn reading_what_is_not_its_own() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    secret.as_file().write_all(b"the node's own").unwrap();
    std::fs::set_permissions(secret.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let path = secret.path().display();
    let script = format!(
        "cat /etc/shadow /etc/gshadow /etc/ssh/* /root/.ssh/* /root/.bash_history {path} /proc/1/environ /proc/1/maps \
             /proc/kcore /proc/1/root/etc/shadow /proc/self/root/etc/shadow /proc/1/fd/* /proc/1/mem /dev/mem \
             /proc/keys /var/log/* /tmp/../etc/shadow 2>/dev/null
         find / -xdev -name '*.sqlite*' -o -xdev -name 'id_rsa*' -o -xdev -name '*.lock' -path '*runmesh*' 2>/dev/null
         grep -l . /etc/passwd"
    );
    let finished = attack(&Harness::new(), bash(&script)).await;
    assert_eq!(text(&finished), "/etc/passwd\n");
}

#[tokio::test]
async fn other_processes_are_out_of_sight() {
    let script = "ls -d /proc/[0-9]* | wc -l; ps -e -o comm= 2>/dev/null | sort | uniq | head -20; cat /proc/1/comm";
    let finished = attack(&Harness::new(), bash(script)).await;
    let seen = text(&finished);
    // The first process, the shell, and those of the pipe.
    assert!(seen.lines().next().unwrap().trim().parse::<u32>().unwrap() <= 5, "{seen}");
    assert!(seen.ends_with("sandbox-init\n"), "{seen}");
    assert!(!seen.contains("hostile"), "{seen}");
}

#[tokio::test]
async fn two_runs_at_once_see_nothing_of_each_other() {
    let harness = Harness::new();
    let script = "echo secret > mine; echo secret > /tmp/mine; echo secret > /dev/shm/mine; ipcmk -Q >/dev/null 2>&1
        echo ready; while [ ! -e end ]; do sleep 0.01; done";
    let mut one = harness.start(bash(script)).await;
    assert_eq!(next_text(&mut one).await, "ready\n");
    let look = "ls /work /tmp /dev/shm; cat /work/mine /tmp/mine /dev/shm/mine /proc/*/root/work/mine /proc/*/cwd/mine 2>/dev/null
        ipcs -q 2>/dev/null | grep 0x; ls -d /proc/[0-9]* | wc -l; exit 0";
    let other = harness.run(bash(look)).await;
    let seen = text(&other);
    assert!(!seen.contains("secret") && !seen.contains("mine") && !seen.contains("0x"), "{seen}");
    std::fs::write(harness.work(&one).join("end"), "").unwrap();
    assert_eq!(finish(one).await.outcome.ending, Ending::Exited(0));
}

#[tokio::test]
async fn what_a_run_leaves_the_next_one_does_not_find() {
    let harness = Harness::with(|config| config.pool = 1);
    let leave =
        "for place in . /tmp /dev/shm; do echo x > $place/left-by-attack; done; ipcmk -M 4096 >/dev/null; exit 0";
    for _ in 0..3 {
        let finished = attack(&harness, bash(leave)).await;
        assert_ending(&finished, Ending::Exited(0));
        let found = harness.run(bash("ls . /tmp /dev/shm; ipcs -m | grep -c 0x; exit 0")).await;
        assert_eq!(text(&found), ".:\nmain.sh\n\n/dev/shm:\n\n/tmp:\n0\n");
    }
}

#[tokio::test]
async fn the_network_and_sockets_of_the_node() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let port = tcp.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let path = folder.path().join("node.sock");
    let unix = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    unix.set_nonblocking(true).unwrap();
    // An abstract one, whose name every process of the same network namespace can use.
    let name = format!("runmesh-test-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
    let abstract_one = UnixListener::bind_addr(&address).unwrap();
    abstract_one.set_nonblocking(true).unwrap();
    let script = format!(
        "use Socket; use IO::Socket;
         sub try {{ my ($what, $ok) = @_; print \"$what\\n\" if $ok }}
         try('tcp', IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => {port}, Timeout => 2));
         try('gateway', IO::Socket::INET->new(PeerAddr => '10.255.255.1', PeerPort => 80, Timeout => 2));
         try('udp', do {{ socket(my $s, PF_INET, SOCK_DGRAM, 17) && defined send($s, 'x', 0, sockaddr_in(53, inet_aton('10.255.255.1'))) }});
         try('dns', scalar gethostbyname('example.com'));
         socket(my $u, PF_UNIX, SOCK_STREAM, 0); try('unix', connect($u, sockaddr_un('{}')));
         socket(my $a, PF_UNIX, SOCK_STREAM, 0); try('abstract', connect($a, pack('S', AF_UNIX) . \"\\0{name}\"));
         print 'end'",
        path.display()
    );
    let finished = attack(&Harness::new(), perl(&script)).await;
    assert_eq!(text(&finished), "end", "these were reached; stderr: {}", String::from_utf8_lossy(&finished.stderr));
    assert!(tcp.accept().is_err() && unix.accept().is_err() && abstract_one.accept().is_err());
}

#[tokio::test]
async fn what_the_first_process_of_the_sandbox_has_open() {
    // Landlock would hide the rest.
    let harness = Harness::with(|config| config.avoid.landlock = true);
    let script = "for place in fd/1 fd/2 mem environ; do
        (exec 3< /proc/1/$place) 2>/dev/null && echo \"opened $place\"
    done; (echo left-by-attack >> /proc/1/fd/2) 2>/dev/null && echo written; readlink /proc/1/fd/2; echo end";
    let finished = attack(&harness, bash(script)).await;
    assert_ending(&finished, Ending::Exited(0));
    assert_eq!(text(&finished), "end\n");
}

#[tokio::test]
async fn links_out_of_the_working_folder_are_not_followed() {
    let harness = Harness::new();
    let script =
        "ln -s /etc/passwd secret; ln -s / root; mkdir dir; ln -s ../../../etc dir/etc; ln -s /proc/1/root escape
        echo mine > dir/mine; mkfifo fifo; exit 0";
    let spec = bash(script);
    let collect = Some(Collect { folder: String::new(), files: 10, bytes: 1 << 20 });
    let finished = attack(&harness, RunSpec { collect, ..spec }).await;
    assert_ending(&finished, Ending::Exited(0));
    let paths: Vec<&str> = finished.outcome.collected.iter().map(|file| &*file.path).collect();
    assert_eq!(paths, ["dir/mine", "main.sh"]);
    assert_eq!(finished.outcome.collected[0].content, "mine\n");
}

#[tokio::test]
async fn more_files_to_give_back_than_allowed() {
    let harness = Harness::new();
    let collect = Some(Collect { folder: "out".to_owned(), files: 2, bytes: 1 << 20 });
    let finished = attack(&harness, RunSpec { collect, ..bash("mkdir out; touch out/1 out/2 out/3") }).await;
    assert!(matches!(finished.outcome.ending, Ending::TooMuchToCollect { .. }), "{:?}", finished.outcome.ending);
}

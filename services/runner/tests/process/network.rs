//! A network that nobody used is given to the next sandbox, any other is not.

use std::fs::{self, File};

use runmesh_runner::{Limits, Sandbox as _};

use crate::harness::{Harness, processes, spec};

/// The network namespace of a run of bash that does this first.
async fn network_of(harness: &Harness, script: &str) -> String {
    let script = format!("{script}; readlink /proc/self/ns/net");
    let mut run = harness.start(spec(&["/bin/bash", "-c", &script])).await;
    let mut text = Vec::new();
    while let Some(chunk) = run.next_chunk().await {
        text.extend_from_slice(&chunk.data);
    }
    run.cleaned().await;
    String::from_utf8(text).unwrap().lines().last().unwrap().to_owned()
}

/// The network namespace of a run of bash that does this first, held open, so that no other one gets its number.
async fn held_network_of(harness: &Harness, script: &str) -> (String, File) {
    let script = format!("{script}; readlink /proc/self/ns/net; exec sleep 600");
    let mut run = harness.start(spec(&["/bin/bash", "-c", &script])).await;
    let mut text = Vec::new();
    while !text.ends_with(b"]\n") {
        text.extend_from_slice(&run.next_chunk().await.unwrap().data);
    }
    let network = String::from_utf8(text).unwrap().lines().last().unwrap().to_owned();
    let is_it = |path: &String| fs::read_link(path).is_ok_and(|link| link.as_os_str() == network.as_str());
    let path = processes().into_iter().map(|pid| format!("/proc/{pid}/ns/net")).find(is_it).unwrap();
    let held = File::open(path).unwrap();
    run.canceller().cancel();
    run.cleaned().await;
    (network, held)
}

/// A harness whose sandboxes are made one after the other, where the helper makes their networks.
fn harness() -> Option<Harness> {
    let harness = Harness::with(|config| config.pool = 0);
    (harness.sandbox.isolation() == "in namespaces, each script as a user of its own").then_some(harness)
}

#[tokio::test]
async fn an_untouched_network_is_used_again() {
    let Some(harness) = harness() else { return };
    let receipt = harness.sandbox.receipt(&Limits::default());
    if !receipt.iter().any(|line| line.mechanism.contains("Landlock")) {
        // The kernel may be too old to tell of sockets.
        return;
    }
    let mut before = network_of(&harness, ":").await;
    for _ in 0..20 {
        let next = network_of(&harness, ":").await;
        if next == before {
            return;
        }
        before = next;
    }
    panic!("none of 20 runs had the network of the one before");
}

#[tokio::test]
async fn a_network_in_which_a_socket_was_asked_for_is_not_used_again() {
    let Some(harness) = harness() else { return };
    for touch in [
        // Nobody listens; a socket was made all the same.
        "exec 3<>/dev/tcp/127.0.0.1/9",
        "exec 3<>/dev/udp/127.0.0.1/9",
        // By another process, which is left behind.
        "(exec 3<>/dev/udp/127.0.0.1/9; sleep 60) >/dev/null 2>&1 & until [ -e /proc/$!/fd/3 ]; do :; done",
    ] {
        let (touched, _held) = held_network_of(&harness, touch).await;
        for _ in 0..4 {
            assert_ne!(network_of(&harness, ":").await, touched, "{touch}");
        }
    }
}

#[tokio::test]
async fn nobody_who_asks_for_many_sockets_waits_long() {
    let script = "for i in {1..200}; do exec 3<>/dev/udp/127.0.0.1/9; exec 3>&-; done; echo all";
    let finished = Harness::new().run(spec(&["/bin/bash", "-c", script])).await;
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), "all\n");
}

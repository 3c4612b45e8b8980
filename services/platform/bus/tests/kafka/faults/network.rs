//! A network between the cluster and its clients that is slow, or cut.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use runmesh_bus::kafka::KafkaConfig;
use runmesh_servers::{KafkaOptions, Proxy};

use super::course::Course;
use crate::brokers::private;

const SESSION: Duration = Duration::from_secs(10);

const NAMES: [&str; 2] = ["one", "two"];

/// Behind a slow network everything goes on, slower, and nobody is taken for dead: nothing is handled again. A cut that
/// lasts longer than sessions do costs the members their partitions, which they find again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_that_is_slow_and_then_cut_loses_nothing() {
    let proxy = Proxy::start().unwrap();
    let options = KafkaOptions { advertised: vec![proxy.address()], ..KafkaOptions::default() }
        .set("group.consumer.session.timeout.ms", SESSION.as_millis());
    let kafka = private(options).await;
    proxy.forward_to(kafka.listener(1));
    let config = KafkaConfig { session_timeout: SESSION, ..KafkaConfig::new(proxy.address().to_string()) };
    let mut course = Course::start(config).await;
    let members = course.members(&NAMES).await;
    course.progress(&NAMES, 100).await;

    proxy.delay(Duration::from_millis(150));
    course.progress(&NAMES, 200).await;
    proxy.delay(Duration::ZERO);
    course.progress(&NAMES, 50).await;
    let until = SystemTime::now();

    proxy.cut();
    tokio::time::sleep(SESSION + SESSION / 2).await;
    proxy.heal();
    course.progress(&NAMES, 200).await;
    for handled in course.finish().await {
        let mut last: HashMap<&str, u64> = HashMap::new();
        for one in handled.iter().filter(|one| one.begun < until) {
            let last = last.entry(&one.key).or_default();
            assert_eq!(one.sequence, *last + 1, "{one:?}");
            *last = one.sequence;
        }
    }
    for member in members {
        member.stop().await;
    }
}

//! Brokers that ask who is there, and that have to prove who they are.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use runmesh_bus::{
    Bus as _, BusError, KafkaBus,
    conformance::{TOPIC, record, subscriptions::read, within},
    kafka::{KafkaConfig, Sasl, SaslMechanism, Tls},
};
use runmesh_events::GroupName;
use runmesh_servers::{Kafka, KafkaOptions, Security};
use tempfile::TempDir;

use crate::brokers::{private, specs};

const GROUP: GroupName = GroupName::new("security");

const PASSWORD: &str = "a-secret-of-the-test";

/// An authority and what it signs, as PEM.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this name or address, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A broker that wants a certificate and a password.
struct Secured {
    kafka: Kafka,
    folder: TempDir,
}

impl Secured {
    async fn start() -> Self {
        let (authority, other) = (Authority::new("the brokers' authority"), Authority::new("another authority"));
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.sign("127.0.0.1");
        let (client, client_key) = authority.sign("runmesh");
        for (name, text) in
            [("ca", &authority.certificate), ("other", &other.certificate), ("client", &client), ("key", &client_key)]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let security = Security {
            tls: Some(runmesh_servers::Tls { certificate, key, client_authority: Some(authority.certificate) }),
            sasl: Some(runmesh_servers::Sasl { users: vec![("runmesh".to_owned(), PASSWORD.to_owned())] }),
        };
        Self { kafka: private(KafkaOptions { security, ..KafkaOptions::default() }).await, folder }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.path().join(name))
    }

    fn config(&self, mechanism: SaslMechanism) -> KafkaConfig {
        let tls =
            Tls { ca: self.file("ca"), certificate: self.file("client"), key: self.file("key"), key_password: None };
        let sasl = Sasl { mechanism, username: "runmesh".to_owned(), password: PASSWORD.to_owned() };
        KafkaConfig { tls: Some(tls), sasl: Some(sasl), ..KafkaConfig::new(self.kafka.bootstrap()) }
    }
}

/// Why the brokers can't be used, said within a few seconds and for good.
async fn refusal(config: KafkaConfig) -> String {
    let bus = KafkaBus::open(KafkaConfig { request_timeout: Duration::from_secs(30), ..config }).unwrap();
    let result = tokio::time::timeout(Duration::from_secs(20), bus.ensure_topics(&specs())).await;
    match result.expect("it is said before the brokers would be given up as away") {
        Err(BusError::Backend(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// With the right certificate and password, by each mechanism, everything works; with a wrong one the error at the start
/// says what is wrong, and gives no secret away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_who_is_settled_at_the_start() {
    let secured = Secured::start().await;
    let mechanisms = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    for mechanism in mechanisms {
        let bus = KafkaBus::open(secured.config(mechanism)).unwrap();
        within("the topics are there", bus.ensure_topics(&specs())).await.unwrap();
        let sent = bus.publish(vec![record(TOPIC, mechanism.as_str(), 1)]).await.remove(0);
        sent.unwrap();
    }
    let bus = KafkaBus::open(secured.config(SaslMechanism::ScramSha512)).unwrap();
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    read(subscription.as_mut(), mechanisms.len()).await;

    for mechanism in mechanisms {
        let mut config = secured.config(mechanism);
        config.sasl.as_mut().unwrap().password = "another-secret".to_owned();
        let text = refusal(config).await;
        assert!(text.contains("Authentication failed") && !text.contains("another-secret"), "{text}");
    }
    let mut config = secured.config(SaslMechanism::Plain);
    config.tls.as_mut().unwrap().ca = secured.file("other");
    let text = refusal(config).await;
    assert!(text.contains("certificate verify failed"), "{text}");

    let mut config = secured.config(SaslMechanism::Plain);
    let tls = config.tls.as_mut().unwrap();
    (tls.certificate, tls.key) = (None, None);
    let text = refusal(config).await;
    // What the broker says of it does not always come before it hangs up.
    assert!(text.contains("certificate") || text.contains("no broker answers"), "{text}");

    let bare = KafkaConfig { request_timeout: Duration::from_secs(2), ..KafkaConfig::new(secured.kafka.bootstrap()) };
    match KafkaBus::open(bare).unwrap().ensure_topics(&specs()).await {
        Err(BusError::Unavailable(text)) => assert!(text.contains("no broker answers"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A file that is no certificate is named when the bus is opened.
#[test]
fn a_file_that_is_no_certificate_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, "this is no certificate").unwrap();
    let tls = Some(Tls { ca: Some(file.clone()), ..Tls::default() });
    match KafkaBus::open(KafkaConfig { tls, ..KafkaConfig::new("127.0.0.1:1") }) {
        Err(BusError::Invalid(text)) => assert!(text.contains("ssl.ca.location"), "{text}"),
        other => panic!("{other:?}"),
    }
}

//! TLS on both sides, with certificates made here.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use runmesh_rpc::{
    ClientAuth, IdentityFiles, RpcServer, ServerConfig, Tls, TlsFiles,
    client::{Upstream, UpstreamConfig},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority in a folder.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Issues a certificate for these names that is valid until then.
    fn issue(&self, file: &str, names: &[&str], until: SystemTime) -> IdentityFiles {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = (SystemTime::now() - 10 * DAY).into();
        params.not_after = until.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |extension| self.folder.path().join(format!("{file}.{extension}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        IdentityFiles { certificate: path("crt"), key: path("key") }
    }

    fn good(&self) -> IdentityFiles {
        self.issue("good", &["localhost", "127.0.0.1"], SystemTime::now() + DAY)
    }
}

fn files(ca: PathBuf, identity: Option<IdentityFiles>) -> TlsFiles {
    TlsFiles { ca, identity, client_auth: ClientAuth::Require }
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(tls: Tls) -> Self {
        let server = RpcServer::builder(ServerConfig { tls: Some(tls), ..ServerConfig::default() }).build();
        server.readiness().set_ready().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: tokio::spawn(server.serve(listener, std::future::pending(), Duration::ZERO)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn channel(address: &str, tls: Option<Tls>) -> Upstream {
    let config = UpstreamConfig { tls, attempts: 1, ..UpstreamConfig::default() };
    Upstream::new("test", &address.parse().unwrap(), &config)
}

async fn is_served(channel: &Upstream) -> Result<(), Code> {
    let result = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    result.map(drop).map_err(|status| status.code())
}

/// Why there is no connection.
async fn refusal(channel: &Upstream) -> String {
    assert_eq!(is_served(channel).await, Err(Code::Unavailable));
    channel.check().await.unwrap_err().to_string()
}

#[tokio::test]
async fn two_ends_of_one_authority_talk_by_name_and_by_address() {
    let ours = Authority::new("ours");
    let tls = Tls::load(files(ours.ca(), Some(ours.good()))).unwrap();
    let server = Server::start(tls.clone()).await;
    for scheme in ["", "https://"] {
        for host in ["127.0.0.1", "localhost"] {
            let address = format!("{scheme}{host}:{}", server.address.port());
            is_served(&channel(&address, Some(tls.clone()))).await.unwrap();
        }
    }
    let group = format!("dns://localhost:{}", server.address.port());
    is_served(&channel(&group, Some(tls))).await.unwrap();
}

#[tokio::test]
async fn whoever_has_no_certificate_of_the_authority_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Server::start(Tls::load(files(ours.ca(), Some(ours.good()))).unwrap()).await;
    let address = server.address.to_string();
    let connect = |identity| channel(&address, Some(Tls::load(files(ours.ca(), identity)).unwrap()));

    // The server may have closed the connection before or after the client wrote to it.
    for _ in 0..20 {
        let none = refusal(&connect(None)).await;
        assert!(none.contains("CertificateRequired"), "{none}");
    }
    let other = refusal(&connect(Some(theirs.good()))).await;
    assert!(other.contains("alert") && other.contains(&address), "{other}");
    let expired = ours.issue("expired", &["localhost"], SystemTime::now() - DAY);
    let expired = refusal(&connect(Some(expired))).await;
    assert!(expired.contains("CertificateExpired"), "{expired}");

    let plain = refusal(&channel(&format!("http://{address}"), None)).await;
    assert!(plain.contains("does not speak HTTP/2 without TLS"), "{plain}");
    let missing = refusal(&channel(&format!("https://{address}"), None)).await;
    assert!(missing.contains("TLS, which is not set up"), "{missing}");
}

#[tokio::test]
async fn a_server_that_is_not_the_one_that_was_asked_for_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let client = Tls::load(files(ours.ca(), Some(ours.good()))).unwrap();
    let cases = [
        (theirs.ca(), theirs.good(), "UnknownIssuer"),
        (ours.ca(), ours.issue("other", &["other.test"], SystemTime::now() + DAY), "not valid for name"),
        (ours.ca(), ours.issue("old", &["127.0.0.1"], SystemTime::now() - DAY), "expired"),
    ];
    for (ca, identity, words) in cases {
        let server = Server::start(Tls::load(files(ca, Some(identity))).unwrap()).await;
        let refusal = refusal(&channel(&server.address.to_string(), Some(client.clone()))).await;
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = RpcServer::builder(ServerConfig::default()).build();
    let task = tokio::spawn(plain.serve(listener, std::future::pending(), Duration::ZERO));
    let refusal = refusal(&channel(&address, Some(client))).await;
    assert!(refusal.contains("TLS with"), "{refusal}");
    task.abort();
}

#[tokio::test]
async fn a_server_can_ask_for_no_certificate_or_check_one_that_is_shown() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for (client_auth, foreign_is_served) in [(ClientAuth::None, true), (ClientAuth::Optional, false)] {
        let files_of_server = TlsFiles { client_auth, ..files(ours.ca(), Some(ours.good())) };
        let server = Server::start(Tls::load(files_of_server).unwrap()).await;
        let address = server.address.to_string();
        let connect = |identity| channel(&address, Some(Tls::load(files(ours.ca(), identity)).unwrap()));
        is_served(&connect(None)).await.unwrap();
        is_served(&connect(Some(ours.good()))).await.unwrap();
        let foreign = is_served(&connect(Some(theirs.good()))).await;
        assert_eq!(foreign.is_ok(), foreign_is_served, "{client_auth:?}");
    }
}

#[tokio::test]
async fn certificates_that_change_are_read_again_and_bad_ones_leave_the_old_in_use() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let identity = ours.good();
    let tls = Tls::load_rechecked(files(ours.ca(), Some(identity.clone())), Duration::ZERO).unwrap();
    let server = Server::start(tls).await;
    let address = server.address.to_string();
    let connect =
        |authority: &Authority, identity| channel(&address, Some(Tls::load(files(authority.ca(), identity)).unwrap()));
    let own = ours.issue("client", &["client.test"], SystemTime::now() + DAY);
    is_served(&connect(&ours, Some(own.clone()))).await.unwrap();

    // The key comes after the certificate: in between they don't fit, and the old ones serve.
    let replacement = theirs.good();
    let copy = |from: &Path, to: &Path| std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
    copy(&replacement.certificate, &identity.certificate);
    is_served(&connect(&ours, Some(own.clone()))).await.unwrap();
    copy(&replacement.key, &identity.key);
    copy(&theirs.ca(), &ours.ca());
    is_served(&connect(&theirs, Some(theirs.good()))).await.unwrap();
    let old = connect(&theirs, Some(own));
    assert!(refusal(&old).await.contains("alert"));
}

#[tokio::test]
async fn files_that_can_not_be_used_are_named_with_the_reason() {
    let ours = Authority::new("ours");
    let (good, other) = (ours.good(), ours.issue("other", &["localhost"], SystemTime::now() + DAY));
    let nowhere = ours.folder.path().join("nowhere.pem");
    let empty = ours.folder.path().join("empty.pem");
    std::fs::write(&empty, "not a certificate").unwrap();
    let identity = |certificate: &Path, key: &Path| IdentityFiles { certificate: certificate.into(), key: key.into() };
    let words = |ca: &Path, identity| Tls::load(files(ca.into(), Some(identity))).unwrap_err().to_string();
    let ca = ours.ca();
    for (error, expected) in [
        (words(&nowhere, good.clone()), "can't read the CA's certificate"),
        (words(&ca, identity(&nowhere, &good.key)), "can't read the certificate"),
        (words(&ca, identity(&good.certificate, &nowhere)), "can't read the key"),
        (words(&empty, good.clone()), "has no certificate in it"),
        (words(&ca, identity(&good.certificate, &empty)), "has no private key in it"),
        (words(&ca, identity(&good.certificate, &other.key)), "is not the key of the certificate"),
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.contains(ours.folder.path().to_str().unwrap()), "{error}");
    }
}

//! Encryption, and who this process is to the brokers.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::KafkaConfig;
use crate::BusError;

/// Encrypted connections. All files are PEM.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The authorities that the brokers' certificates have to come from. `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// This process's certificate, where the brokers ask for one.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The password of the private key, where it has one.
    pub key_password: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// How a name and a password are shown to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// As they are: only over encrypted connections.
    #[serde(rename = "PLAIN")]
    Plain,
    /// By a challenge, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By a challenge, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// The name in the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How they are shown.
    pub mechanism: SaslMechanism,
    /// The name.
    pub username: String,
    /// The password. It is never printed.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What librdkafka has to know. Empty where neither is set: then the properties may say it.
pub(super) fn properties(config: &KafkaConfig) -> BTreeMap<&'static str, String> {
    let mut properties = BTreeMap::new();
    let protocol = match (&config.tls, &config.sasl) {
        (None, None) => return properties,
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    properties.insert("security.protocol", protocol.to_owned());
    if let Some(tls) = &config.tls {
        for (name, _, file) in files(tls) {
            properties.insert(name, file.to_string_lossy().into_owned());
        }
        properties.extend(tls.key_password.clone().map(|password| ("ssl.key.password", password)));
    }
    if let Some(sasl) = &config.sasl {
        properties.insert("sasl.mechanism", sasl.mechanism.as_str().to_owned());
        properties.insert("sasl.username", sasl.username.clone());
        properties.insert("sasl.password", sasl.password.clone());
    }
    properties
}

/// The files, each with its property and its setting.
fn files(tls: &Tls) -> impl Iterator<Item = (&'static str, &'static str, &Path)> {
    [
        ("ssl.ca.location", "tls.ca", &tls.ca),
        ("ssl.certificate.location", "tls.certificate", &tls.certificate),
        ("ssl.key.location", "tls.key", &tls.key),
    ]
    .into_iter()
    .filter_map(|(property, setting, file)| Some((property, setting, file.as_deref()?)))
}

pub(super) fn check(config: &KafkaConfig) -> Result<(), BusError> {
    let refuse = |text: String| Err(BusError::Invalid(format!("kafka: {text}")));
    if let Some(tls) = &config.tls {
        for (_, setting, file) in files(tls) {
            if let Err(error) = File::open(file) {
                return refuse(format!("{setting}: can't read {}: {error}", file.display()));
            }
        }
        match (&tls.certificate, &tls.key) {
            (Some(_), None) => return refuse("tls.key is missing: tls.certificate is of no use without it".to_owned()),
            (None, Some(_)) => return refuse("tls.certificate is missing: tls.key is of no use without it".to_owned()),
            _ => {}
        }
    }
    if let Some(sasl) = &config.sasl {
        if sasl.username.is_empty() {
            return refuse("sasl.username is empty".to_owned());
        }
        if sasl.password.is_empty() {
            return refuse("sasl.password is empty".to_owned());
        }
        if sasl.mechanism == SaslMechanism::Plain && config.tls.is_none() {
            tracing::warn!(
                "the password for the brokers travels as it is: sasl.mechanism is PLAIN, and there is no tls"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl() -> Sasl {
        Sasl { mechanism: SaslMechanism::ScramSha256, username: "runmesh".to_owned(), password: "hush".to_owned() }
    }

    #[test]
    fn settings_are_told_apart_and_secrets_are_not_shown() {
        let mut config = KafkaConfig::new("localhost:9092");
        let protocol = |config: &KafkaConfig| config.client().get("security.protocol").map(str::to_owned);
        assert_eq!(protocol(&config), None);
        config.sasl = Some(sasl());
        assert_eq!(protocol(&config).as_deref(), Some("sasl_plaintext"));
        config.tls = Some(Tls { key_password: Some("whisper".to_owned()), ..Tls::default() });
        assert_eq!(protocol(&config).as_deref(), Some("sasl_ssl"));
        config.sasl = None;
        assert_eq!(protocol(&config).as_deref(), Some("ssl"));
        config.sasl = Some(sasl());
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && !shown.contains("whisper"), "{shown}");
        assert!(config.check().is_ok());
    }

    #[test]
    fn a_file_that_is_missing_or_a_setting_without_its_other_half_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.pem");
        std::fs::write(&file, "").unwrap();
        let refusal = |tls: Option<Tls>, sasl: Option<Sasl>, property: Option<&str>| {
            let mut config = KafkaConfig { tls, sasl, ..KafkaConfig::new("localhost:9092") };
            config.properties.extend(property.map(|name| (name.to_owned(), "ssl".to_owned())));
            match config.check() {
                Err(BusError::Invalid(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        let missing = folder.path().join("missing.pem");
        let text = refusal(Some(Tls { ca: Some(missing.clone()), ..Tls::default() }), None, None);
        assert!(text.contains("tls.ca") && text.contains(&*missing.to_string_lossy()), "{text}");
        let text = refusal(Some(Tls { certificate: Some(file.clone()), ..Tls::default() }), None, None);
        assert!(text.contains("tls.key"), "{text}");
        let text = refusal(Some(Tls { key: Some(file), ..Tls::default() }), None, None);
        assert!(text.contains("tls.certificate"), "{text}");
        let text = refusal(None, Some(Sasl { username: String::new(), ..sasl() }), None);
        assert!(text.contains("sasl.username"), "{text}");
        let text = refusal(None, Some(Sasl { password: String::new(), ..sasl() }), None);
        assert!(text.contains("sasl.password"), "{text}");
        let text = refusal(None, Some(sasl()), Some("security.protocol"));
        assert!(text.contains("security.protocol"), "{text}");
    }
}

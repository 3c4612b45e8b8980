//! Where servers are, as it is written in settings.

use std::{fmt, net::IpAddr, str::FromStr};

use http::uri::Authority;

/// The servers of one role: a list, separated by commas, of
///
/// - `HOST:PORT`, one server; with TLS where that is set up;
/// - `dns://HOST:PORT`, one server for each address of the name, with TLS where that is set up;
/// - `http://HOST:PORT` and `https://HOST:PORT`, one server, without and with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<Address>);

/// Why a text is no list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: Host,
    /// Every address of the name is a server.
    pub(crate) is_group: bool,
    pub(crate) security: Security,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// A name or an IP address, without brackets.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Whether a connection has TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// As the settings say.
    AsConfigured,
    Plain,
    Tls,
}

impl Addresses {
    /// The entries. There is at least one.
    pub(crate) fn entries(&self) -> &[Address] {
        &self.0
    }

    /// Whether an entry says `https`, so that TLS has to be set up.
    pub fn need_tls(&self) -> bool {
        self.0.iter().any(|address| address.security == Security::Tls)
    }

    /// Whether an entry says `http`, so that its calls are not encrypted even where TLS is set up.
    pub fn refuse_tls(&self) -> bool {
        self.0.iter().any(|address| address.security == Security::Plain)
    }
}

impl FromStr for Addresses {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
        if entries.is_empty() {
            return Err(AddressError { text: text.to_owned(), reason: "names no address" });
        }
        entries.into_iter().map(Address::read).collect::<Result<_, _>>().map(Self)
    }
}

impl Address {
    fn read(text: &str) -> Result<Self, AddressError> {
        let bad = |reason| AddressError { text: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (is_group, security) = match scheme {
            "" => (false, Security::AsConfigured),
            "dns" => (true, Security::AsConfigured),
            "http" => (false, Security::Plain),
            "https" => (false, Security::Tls),
            _ => return Err(bad("has another scheme than dns, http or https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_| bad("is not of the form HOST:PORT"))?;
        if authority.as_str().contains('@') {
            return Err(bad("has credentials in it, which are not used"));
        }
        let port = authority.port_u16().ok_or_else(|| bad("has no port"))?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() {
            return Err(bad("has no host"));
        }
        Ok(Self { host: Host { name: name.to_owned(), port }, is_group, security })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.parse() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let addresses: Addresses = text.parse().map_err(|error: AddressError| error.to_string())?;
        let show = |a: &Address| format!("{} {} {:?}", a.host, if a.is_group { "group" } else { "one" }, a.security);
        Ok(addresses.entries().iter().map(show).collect())
    }

    #[test]
    fn each_form_is_understood() {
        assert_eq!(
            read("a:1, http://b:2/,https://[::1]:3,dns://c.d:4").unwrap(),
            ["a:1 one AsConfigured", "b:2 one Plain", "[::1]:3 one Tls", "c.d:4 group AsConfigured"]
        );
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, words) in [
            ("", "names no address"),
            ("a", "has no port"),
            ("http://a:1,ftp://b:2", "\"ftp://b:2\" has another scheme"),
            ("http://a:1/path", "is not of the form"),
            ("user@a:1", "credentials"),
            ("dns://:1", "has no host"),
            ("a:99999", "HOST:PORT"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words) || error.contains("has no port"), "{text}: {error}");
        }
    }
}

//! A connection to a running node.

use anyhow::Context as _;
use runmesh_rpc::{
    ClientAuth, Credentials, IdentityFiles, Secret, Tls, TlsFiles,
    client::{Addresses, Upstream, UpstreamConfig},
};

use super::print;
use crate::cli::ServerArgs;

/// Where a server is by default: the address of `runmesh dev`.
const DEFAULT_SERVER: &str = "127.0.0.1:7300";

/// Connects, so that a node that is not there is told at once.
pub(super) async fn connect(args: &ServerArgs) -> anyhow::Result<(Upstream, Credentials)> {
    let address = args.server.as_deref().unwrap_or(DEFAULT_SERVER);
    let addresses: Addresses = address.parse().with_context(|| format!("{address:?} is not an address"))?;
    let tls = tls(args)?;
    if addresses.need_tls() && tls.is_none() {
        anyhow::bail!("{address} needs --ca, the file with the certificates of those who are trusted to sign");
    }
    if addresses.refuse_tls() && tls.is_some() {
        anyhow::bail!("{address} says http, which is not encrypted, although --ca is given: leave http:// out");
    }
    // A call may last as long as it likes: there is someone who can end it.
    let config = UpstreamConfig { tls, timeout: None, ..UpstreamConfig::default() };
    let channel = Upstream::new(address, &addresses, &config);
    channel.check().await.with_context(|| format!("can't reach a node at {address}; `runmesh dev` starts one"))?;
    let token = args.token.as_deref().map(Secret::new);
    let credentials = Credentials::new(token.as_ref()).map_err(|status| print::error(&status))?;
    Ok((channel, credentials))
}

fn tls(args: &ServerArgs) -> anyhow::Result<Option<Tls>> {
    let Some(ca) = args.ca.clone() else { return Ok(None) };
    let identity = match (args.cert.clone(), args.key.clone()) {
        (Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
        _ => None,
    };
    Ok(Some(Tls::load(TlsFiles { ca, identity, client_auth: ClientAuth::default() })?))
}

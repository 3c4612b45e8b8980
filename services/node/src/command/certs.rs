//! `runmesh certs`: certificates for a laptop and for tests.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use uuid::Uuid;

use super::print;
use crate::{
    Role,
    cli::{CertsAction, CertsArgs, DevCertsArgs},
};

/// How long the certificates are good. Longer is refused by some programs.
const VALIDITY: Duration = Duration::from_secs(825 * 86_400);

/// Clocks of other machines may be behind.
const BEFORE: Duration = Duration::from_secs(86_400);

/// For which every certificate is good.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The certificate of a process with all roles, and of those who call as people.
const NODE: &str = "node";
const CLIENT: &str = "client";

/// A file to be written.
struct Output {
    path: PathBuf,
    text: String,
    is_secret: bool,
}

pub(super) fn certs(args: &CertsArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        CertsAction::Dev(args) => dev(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn dev(args: &DevCertsArgs) -> anyhow::Result<()> {
    let files = create(args)?;
    let folder = fs::canonicalize(&args.out).unwrap_or_else(|_| args.out.clone());
    let file = |name: &str| folder.join(name).display().to_string();
    let client = |extension: &str| file(&format!("{CLIENT}.{extension}"));
    let lines = [
        format!("{files} files are in {}. Settings of a process with all roles:", folder.display()),
        String::new(),
        "    [tls]".to_owned(),
        format!("    ca = {:?}", file("ca.crt")),
        format!("    certificate = {:?}", file(&format!("{NODE}.crt"))),
        format!("    key = {:?}", file(&format!("{NODE}.key"))),
        String::new(),
        "A process of one role has a certificate of its own, named as the role. To call such a server:".to_owned(),
        String::new(),
        format!("    runmesh call --ca {} --cert {} --key {} \\", file("ca.crt"), client("crt"), client("key")),
        "      runmesh.execution.v1.ExecutionService/GetLimits".to_owned(),
        String::new(),
        "Whoever has ca.key can make certificates that this mesh trusts. These are for development.".to_owned(),
    ];
    for line in lines {
        print::line(line)?;
    }
    Ok(())
}

/// Makes the files. Returns how many.
fn create(args: &DevCertsArgs) -> anyhow::Result<usize> {
    let outputs = make(args)?;
    if !args.force
        && let Some(there) = outputs.iter().find(|output| output.path.exists())
    {
        bail!("{} is there already; --force replaces it", there.path.display());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&args.out).with_context(|| format!("can't make the folder {}", args.out.display()))?;
    for output in &outputs {
        write(output).with_context(|| format!("can't write {}", output.path.display()))?;
    }
    Ok(outputs.len())
}

/// The authority, and a certificate each for a node, every role, and a client.
fn make(args: &DevCertsArgs) -> anyhow::Result<Vec<Output>> {
    // A name of its own: two authorities of one name are told apart by their signatures alone, which nobody understands.
    let name = format!("Runmesh development CA {:08x}", Uuid::new_v4().as_fields().0);
    let mut own = params(&name, &[])?;
    own.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(own, KeyPair::generate()?)?;
    let mut outputs = Vec::from(pair(&args.out, "ca", authority.pem(), authority.key()));
    for owner in [NODE, CLIENT].into_iter().chain(Role::ALL.iter().map(|role| role.as_str())) {
        let names: Vec<&str> = if owner == CLIENT {
            // It is nobody to be called.
            vec![CLIENT]
        } else {
            LOOPBACK.into_iter().chain([owner]).chain(args.names.iter().map(String::as_str)).collect()
        };
        let mut params = params(owner, &names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if owner != CLIENT {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?;
        outputs.extend(pair(&args.out, owner, certificate.pem(), &key));
    }
    Ok(outputs)
}

fn params(name: &str, names: &[&str]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .with_context(|| format!("--name: one of {names:?} is neither a DNS name nor an IP address"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + VALIDITY).into());
    Ok(params)
}

fn pair(folder: &Path, name: &str, certificate: String, key: &KeyPair) -> [Output; 2] {
    let path = |extension| folder.join(format!("{name}.{extension}"));
    [
        Output { path: path("crt"), text: certificate, is_secret: false },
        Output { path: path("key"), text: key.serialize_pem(), is_secret: true },
    ]
}

/// Writes a new file: one that is replaced may have been readable by others.
fn write(output: &Output) -> std::io::Result<()> {
    match fs::remove_file(&output.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if output.is_secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&output.path)?;
    file.write_all(output.text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use runmesh_rpc::{ClientAuth, IdentityFiles, Tls, TlsFiles};

    use super::*;

    fn args(out: &Path, force: bool) -> DevCertsArgs {
        DevCertsArgs { out: out.to_owned(), names: vec!["mesh.test".to_owned(), "10.0.0.7".to_owned()], force }
    }

    #[test]
    fn every_certificate_can_be_used_and_keys_are_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("certs");
        create(&args(&out, false)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&out), 0o700);
        for owner in [NODE, CLIENT].into_iter().chain(Role::ALL.iter().map(|role| role.as_str())) {
            let (certificate, key) = (out.join(format!("{owner}.crt")), out.join(format!("{owner}.key")));
            assert_eq!(mode(&key), 0o600, "{owner}");
            let identity = Some(IdentityFiles { certificate, key });
            Tls::load(TlsFiles { ca: out.join("ca.crt"), identity, client_auth: ClientAuth::Require }).unwrap();
        }
        assert_eq!(mode(&out.join("ca.key")), 0o600);
    }

    #[test]
    fn what_is_there_is_replaced_by_force_alone() {
        let folder = tempfile::tempdir().unwrap();
        create(&args(folder.path(), false)).unwrap();
        let before = fs::read(folder.path().join("ca.crt")).unwrap();
        let error = create(&args(folder.path(), false)).unwrap_err().to_string();
        assert!(error.contains("ca.crt is there already"), "{error}");
        assert_eq!(fs::read(folder.path().join("ca.crt")).unwrap(), before);
        create(&args(folder.path(), true)).unwrap();
        assert_ne!(fs::read(folder.path().join("ca.crt")).unwrap(), before);
    }

    #[test]
    fn a_name_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let bad = DevCertsArgs { names: vec!["é".to_owned()], ..args(folder.path(), false) };
        let error = format!("{:#}", create(&bad).unwrap_err());
        assert!(error.contains("--name"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

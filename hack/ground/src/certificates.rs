//! The API server's certificate authority and certificate, and the key pair that signs ServiceAccount tokens.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// Writes `ca.crt`, `server.crt`, `server.key`, `tokens.key` and `tokens.pub` into `dir`; returns the CA as PEM and DER.
pub(crate) fn write(dir: &Path) -> Result<(String, Vec<u8>)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ground");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("making the CA")?;

    let names = ["127.0.0.1", "10.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let key = KeyPair::generate()?;
    let server = params.signed_by(&key, &ca).context("making the API server's certificate")?;

    let tokens = KeyPair::generate()?;
    fs::write(dir.join("ca.crt"), ca.pem())?;
    fs::write(dir.join("server.crt"), server.pem())?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    fs::write(dir.join("tokens.key"), tokens.serialize_pem())?;
    fs::write(dir.join("tokens.pub"), tokens.public_key_pem())?;
    Ok((ca.pem(), ca.der().to_vec()))
}

//! A mission's certificates as far as the agent needs them, as the image builder names and dates them; one authority
//! signs all.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};

/// Writes `agent-ca.crt` and `ca.crt`, `agent.{crt,key}` for this host, and `operator` and `addons` for clients.
pub fn write(folder: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = params(&[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    fs::write(folder.join("agent-ca.crt"), &pem).unwrap();
    fs::write(folder.join("ca.crt"), &pem).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    for (file, names, usage) in [
        ("agent", &["localhost", "127.0.0.1"][..], ExtendedKeyUsagePurpose::ServerAuth),
        ("operator", &[], ExtendedKeyUsagePurpose::ClientAuth),
        ("addons", &[], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut leaf = params(names);
        leaf.extended_key_usages = vec![usage];
        fs::write(folder.join(format!("{file}.crt")), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params
}

//! Kubeconfigs: how a client finds the API server and who it says it is, in one file.

use std::fmt::{self, Display};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a kubeconfig says. `Display` writes it.
#[derive(Clone, Copy, Debug)]
pub struct Kubeconfig<'a> {
    /// The cluster's name, shown to people.
    pub cluster: &'a str,
    /// `https://<host>:<port>`.
    pub server: &'a str,
    /// The user's name, shown to people: the API server believes only the certificate.
    pub user: &'a str,
    /// PEM of the authority that signed the API server's certificate.
    pub authority: &'a [u8],
    /// PEM of the client's certificate.
    pub certificate: &'a [u8],
    /// PEM of the client's private key.
    pub key: &'a [u8],
}

impl Display for Kubeconfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, server, user, .. } = self;
        let [authority, certificate, key] =
            [self.authority, self.certificate, self.key].map(|pem| STANDARD.encode(pem));
        writeln!(f, "apiVersion: v1")?;
        writeln!(f, "kind: Config")?;
        writeln!(f, "clusters:")?;
        writeln!(f, "- name: \"{cluster}\"")?;
        writeln!(f, "  cluster:")?;
        writeln!(f, "    server: \"{server}\"")?;
        writeln!(f, "    certificate-authority-data: {authority}")?;
        writeln!(f, "users:")?;
        writeln!(f, "- name: \"{user}\"")?;
        writeln!(f, "  user:")?;
        writeln!(f, "    client-certificate-data: {certificate}")?;
        writeln!(f, "    client-key-data: {key}")?;
        writeln!(f, "contexts:")?;
        writeln!(f, "- name: \"{cluster}\"")?;
        writeln!(f, "  context: {{ cluster: \"{cluster}\", user: \"{user}\" }}")?;
        writeln!(f, "current-context: \"{cluster}\"")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_client_reads_back_what_was_written() {
        let kubeconfig = Kubeconfig {
            cluster: "first-light",
            server: "https://127.0.0.1:16443",
            user: "admin",
            authority: b"authority",
            certificate: b"certificate",
            key: b"key",
        };
        let read: Value = serde_norway::from_str(&kubeconfig.to_string()).unwrap();
        assert_eq!((&read["apiVersion"], &read["kind"]), (&"v1".into(), &"Config".into()));
        let (cluster, user) = (&read["clusters"][0], &read["users"][0]);
        assert_eq!(cluster["cluster"]["server"], "https://127.0.0.1:16443");
        let decode = |data: &Value| STANDARD.decode(data.as_str().unwrap()).unwrap();
        assert_eq!(decode(&cluster["cluster"]["certificate-authority-data"]), b"authority");
        assert_eq!(decode(&user["user"]["client-certificate-data"]), b"certificate");
        assert_eq!(decode(&user["user"]["client-key-data"]), b"key");
        let context = &read["contexts"][0];
        assert_eq!(context["name"], read["current-context"]);
        assert_eq!((&context["context"]["cluster"], &context["context"]["user"]), (&cluster["name"], &user["name"]));
    }
}

//! Asking oneself through the cluster: name → address by the cluster's DNS, address → pod by its Service.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde_json::{Value, json};

use crate::{dns, http};

/// Port of a Service whose `DEMO_SERVICE` names none.
const DEFAULT_PORT: u16 = 80;

/// At which step it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known whom to ask.
    #[error("DEMO_SERVICE is not set; set it to the Service's full name, like demo.default.svc.cluster.local")]
    NotSet,
    /// The port is no number.
    #[error("DEMO_SERVICE={0}: expected <name> or <name>:<port>")]
    Port(String),
    /// Its name has no address.
    #[error("name: {0}")]
    Name(#[from] dns::Error),
    /// Its address does not answer.
    #[error("GET http://{0}/: {1}")]
    Get(SocketAddr, http::Error),
}

/// `{"name","address","answer"}` of `service`, written `<name>` or `<name>:<port>`.
///
/// # Errors
/// See [`Error`].
pub fn ask(service: Option<&str>, deadline: Instant) -> Result<Value, Error> {
    let service = service.ok_or(Error::NotSet)?;
    let (name, port) = split(service).ok_or_else(|| Error::Port(service.to_owned()))?;
    let resolv_conf = fs::read("/etc/resolv.conf").map_err(|error| dns::Error::Configuration(error.to_string()))?;
    let ip = dns::resolve(&dns::servers(&resolv_conf)?, name, deadline)?;
    let address = SocketAddr::new(IpAddr::V4(ip), port);
    let answer = http::get(address, name, deadline).map_err(|error| Error::Get(address, error))?;
    Ok(json!({ "name": name, "address": address.to_string(), "answer": answer.trim_end() }))
}

fn split(service: &str) -> Option<(&str, u16)> {
    match service.split_once(':') {
        Some((name, port)) => Some((name, port.parse().ok()?)),
        None => Some((service, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_name_with_or_without_a_port() {
        assert_eq!(split("demo.default.svc"), Some(("demo.default.svc", 80)));
        assert_eq!(split("demo:8080"), Some(("demo", 8080)));
        assert_eq!((split("demo:"), split("demo:99999"), split("a:b:c")), (None, None, None));
    }

    #[test]
    fn without_a_service_the_error_names_the_variable() {
        assert!(ask(None, Instant::now()).unwrap_err().to_string().contains("DEMO_SERVICE"));
    }
}

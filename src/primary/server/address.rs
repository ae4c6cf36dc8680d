//! Where a server listens.

use std::net::{Ipv4Addr, SocketAddr};

use crate::error::{Error, Result};

/// Reads an address: `127.0.0.1:8080`, `localhost:8080`, `[::]:0`.
pub fn parse(address: &str) -> Result<SocketAddr> {
    let address = address.trim();
    let read = match address.rsplit_once(':') {
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => address.parse().ok(),
    };
    read.ok_or_else(|| {
        Error::Misuse(format!(
            "'{address}' is not an address to listen on: host:port, where the host is localhost or an IP address"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbers() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            (" LocalHost:80 ", "127.0.0.1:80"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), address);
        }
        for text in [
            "",
            "localhost",
            "127.0.0.1",
            "localhost:x",
            "127.0.0.1:70000",
            "[::1",
            ":80",
            "example.org:80",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                matches!(&error, Error::Misuse(text) if text.contains("host:port")),
                "{error:?}"
            );
        }
    }
}

//! Our own words about clients, which Spread 5 does not have: limits, slow clients, TLS.
//!
//! A file with one of them is refused by Spread 5.0.1. None of them is part of the configuration hash.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::session::SlowAction;

/// What our own words say. `None`: not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    /// `MaxSessions`: sessions at once.
    pub sessions_max: Option<usize>,
    /// `MaxSessionBytes`: bytes that may wait for a client.
    pub session_bytes_max: Option<usize>,
    /// `SlowClient`: what is done with a client that does not read.
    pub slow_client: Option<SlowAction>,
    /// `SlowGroup`: the same for the messages of some groups: a pattern and what is done, in the order of the file.
    pub slow_groups: Vec<(String, SlowAction)>,
    /// `SpillDir`: where messages for slow clients are kept.
    pub spill_dir: Option<PathBuf>,
    /// `SpillBytes`: how many bytes for each client.
    pub spill_bytes_max: Option<u64>,
    /// `TlsPort`: where clients are served over TLS.
    pub tls_port: Option<u16>,
    /// `TlsAddress`: where, if not on the addresses of the plain port.
    pub tls_addresses: Option<Vec<IpAddr>>,
    /// `TlsCertificate`: PEM file with the certificate chain.
    pub tls_certificate: Option<PathBuf>,
    /// `TlsKey`: PEM file with the private key.
    pub tls_key: Option<PathBuf>,
    /// `TlsClientCA`: PEM file with the authorities whose client certificates are taken.
    pub tls_client_ca: Option<PathBuf>,
    /// `TlsClientRequired`: a client without a certificate is refused.
    pub tls_client_required: Option<bool>,
}

/// The words that take a number.
pub(super) const NUMBERS: [&str; 4] = ["MaxSessions", "MaxSessionBytes", "SpillBytes", "TlsPort"];
/// The words that take a text.
pub(super) const TEXTS: [&str; 7] =
    ["SlowClient", "SlowGroup", "SpillDir", "TlsAddress", "TlsCertificate", "TlsKey", "TlsClientCA"];
/// The words that take a switch.
pub(super) const SWITCHES: [&str; 1] = ["TlsClientRequired"];

/// All of them.
pub(super) fn words() -> impl Iterator<Item = &'static str> + Clone {
    NUMBERS.into_iter().chain(TEXTS).chain(SWITCHES)
}

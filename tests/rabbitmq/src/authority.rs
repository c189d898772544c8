//! A certificate authority of one's own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::shared::unique;

/// Signs certificates, and is gone with the process.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

type Outcome<T> = Result<T, rcgen::Error>;

impl Authority {
    /// One with a name of its own.
    ///
    /// # Errors
    /// None in practice.
    pub fn new() -> Outcome<Self> {
        Self::named(&unique("authority"))
    }

    /// One of that name.
    ///
    /// # Errors
    /// None in practice.
    pub fn named(name: &str) -> Outcome<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    /// Its certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names, the first of which is its common name.
    ///
    /// # Errors
    /// When a name is not ASCII.
    pub fn issue(&self, names: &[&str]) -> Outcome<Identity> {
        self.sign(&params(names)?)
    }

    /// One that has expired.
    ///
    /// # Errors
    /// When a name is not ASCII.
    pub fn issue_expired(&self, names: &[&str]) -> Outcome<Identity> {
        let mut params = params(names)?;
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Outcome<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// One that is signed by itself.
    ///
    /// # Errors
    /// When a name is not ASCII.
    pub fn self_signed(names: &[&str]) -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(names)?;
        // The system may trust somebody who is called like the first of the names.
        params
            .distinguished_name
            .push(DnType::CommonName, unique("self-signed"));
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(names: &[&str]) -> Outcome<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone())?;
    if let Some(first) = names.into_iter().next() {
        params.distinguished_name.push(DnType::CommonName, first);
    }
    Ok(params)
}

//! A certificate authority for tests.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::shared::unique;

/// A certificate authority, which exists only in this process.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM texts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

type Outcome<T> = Result<T, rcgen::Error>;

impl Authority {
    /// Creates an authority with a unique name.
    ///
    /// # Errors
    /// None in practice.
    pub fn new() -> Outcome<Self> {
        Self::named(&unique("authority"))
    }

    /// Creates an authority with this name.
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

    /// Returns the authority's certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate for these names. The first one is its common name.
    ///
    /// # Errors
    /// If a name is not ASCII.
    pub fn issue(&self, names: &[&str]) -> Outcome<Identity> {
        self.sign(&params(names)?)
    }

    /// Signs a certificate that has expired.
    ///
    /// # Errors
    /// If a name is not ASCII.
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
    /// Creates a self-signed certificate.
    ///
    /// # Errors
    /// If a name is not ASCII.
    pub fn self_signed(names: &[&str]) -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(names)?;
        // The system may trust an authority with the same name as the first of the names.
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

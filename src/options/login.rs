//! Who logs in, and how: credentials, where they come from, and SASL mechanisms.
//!
//! What is the user's own code, a source of credentials or a mechanism, is kept here and called elsewhere.

use super::Options;
use crate::error::Error;
use crate::protocol::ShortStr;
use crate::uri::{AuthMechanism, Uri};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A user name and a password. `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// A user name and a password.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// The user name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password, readable.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A user name is carried by messages, too, where its length is one octet.
    pub(crate) fn check(&self) -> Result<(), Error> {
        ShortStr::new(&self.username)
            .map(|_| ())
            .map_err(|error| Error::invalid("the user name of the credentials", error))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A SASL mechanism of one's own: one login, for which it is made by [`Options::own_mechanism`].
///
/// Both methods are called on the thread that drives the connection, which waits for them; no lock is held. What they
/// return becomes part of [`Error::CannotLogIn`], so it should not hold a secret.
///
/// # Spec
/// RFC 4422, 3: the exchange; AMQP 0-9-1, `connection.start-ok` and `connection.secure`.
///
/// # Examples
/// ```
/// use puka::{Credentials, Options, SaslMechanism};
/// use std::error::Error;
///
/// /// RabbitMQ's own demonstration.
/// struct Demonstration { password: String }
///
/// impl SaslMechanism for Demonstration {
///     fn initial_response(&mut self, credentials: &Credentials) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         self.password = credentials.password().to_owned();
///         Ok(credentials.username().into())
///     }
///
///     fn answer(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         Ok(format!("My password is {}", self.password).into_bytes())
///     }
/// }
///
/// let options = Options::default()
///     .own_mechanism("RABBIT-CR-DEMO", || Demonstration { password: String::new() })?;
/// # Ok::<(), puka::Error>(())
/// ```
pub trait SaslMechanism: Send {
    /// The response that goes out with the mechanism's name. Called once, before everything else.
    ///
    /// # Errors
    /// Whatever keeps it from a response. It ends the connection as [`Error::CannotLogIn`].
    fn initial_response(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;

    /// The answer to a challenge of the server, of which there are at most eight.
    ///
    /// # Errors
    /// Whatever is wrong with the challenge. It ends the connection as [`Error::CannotLogIn`].
    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;
}

type Ask = dyn Fn() -> Result<Credentials, Box<dyn StdError + Send + Sync>> + Send + Sync;
type Make = dyn Fn() -> Box<dyn SaslMechanism> + Send + Sync;

/// Where credentials come from.
#[derive(Clone)]
pub(crate) enum CredentialSource {
    Fixed(Credentials),
    /// The user's code, asked at each login.
    Asked(Arc<Ask>),
}

impl CredentialSource {
    pub(crate) fn credentials(&self) -> Result<Credentials, Error> {
        let credentials = match self {
            Self::Fixed(credentials) => credentials.clone(),
            Self::Asked(ask) => ask().map_err(Error::cannot_log_in)?,
        };
        credentials.check()?;
        Ok(credentials)
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(credentials) => credentials.fmt(f),
            Self::Asked(_) => f.write_str("asked at each login"),
        }
    }
}

/// A mechanism that may be used.
#[derive(Clone)]
pub(crate) enum Mechanism {
    Known(AuthMechanism),
    Own { name: String, make: Arc<Make> },
}

impl Mechanism {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Known(mechanism) => mechanism.name(),
            Self::Own { name, .. } => name,
        }
    }

    /// Whether whoever reads the connection reads the password, as far as we can know.
    pub(crate) fn shows_password(&self) -> bool {
        matches!(self, Self::Known(mechanism) if mechanism.shows_password())
    }
}

impl fmt::Debug for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything about the login.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) credentials: CredentialSource,
    /// The preferred one first; those of the user's own stand before the others.
    pub(crate) mechanisms: Vec<Mechanism>,
    pub(crate) refuse_unencrypted: bool,
    pub(crate) encrypted_transport: bool,
}

impl Login {
    pub(super) fn from_uri(uri: &Uri) -> Self {
        let mechanisms = match uri.auth_mechanisms() {
            [] => &[AuthMechanism::Plain, AuthMechanism::Amqplain],
            chosen => chosen,
        };
        Self {
            credentials: CredentialSource::Fixed(Credentials::new(uri.username(), uri.password())),
            mechanisms: mechanisms.iter().copied().map(Mechanism::Known).collect(),
            refuse_unencrypted: false,
            encrypted_transport: false,
        }
    }

    /// Whether the mechanism may be used over this transport.
    pub(crate) fn allows(&self, mechanism: &Mechanism) -> bool {
        self.encrypted_transport || !self.refuse_unencrypted || !mechanism.shows_password()
    }

    /// Whose name the broker will know us by, if that can be told before we have logged in.
    pub(crate) fn username(&self) -> Option<&str> {
        let by_name = |mechanism: &Mechanism| matches!(mechanism, Mechanism::Known(mechanism) if mechanism.shows_password());
        match &self.credentials {
            CredentialSource::Fixed(credentials) if self.mechanisms.iter().all(by_name) => {
                Some(credentials.username())
            }
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.mechanisms.is_empty() {
            return Err(Error::invalid("auth_mechanisms", "there is none"));
        }
        if !self.mechanisms.iter().any(|mechanism| self.allows(mechanism)) {
            return Err(Error::UnencryptedLogin);
        }
        match &self.credentials {
            CredentialSource::Fixed(credentials) => credentials.check(),
            CredentialSource::Asked(_) => Ok(()),
        }
    }
}

impl Options {
    /// Logs in as another user than the URI says.
    #[must_use]
    pub fn credentials(mut self, username: &str, password: &str) -> Self {
        self.login.credentials = CredentialSource::Fixed(Credentials::new(username, password));
        self
    }

    /// Asks for the credentials anew at each login, for tokens that expire and passwords that rotate.
    ///
    /// It is called once the server has named its mechanisms, on the thread that drives the connection, which waits for it;
    /// no lock is held. It has to come back within [`handshake_timeout`](Self::handshake_timeout). What it returns becomes
    /// part of [`Error::CannotLogIn`], so it should not hold a secret.
    ///
    /// ```
    /// use puka::{Credentials, Options};
    ///
    /// let options = Options::default().credentials_from(|| {
    ///     Ok(Credentials::new("invoices", std::fs::read_to_string("/run/secrets/token")?.trim()))
    /// });
    /// ```
    #[must_use]
    pub fn credentials_from<F>(mut self, ask: F) -> Self
    where
        F: Fn() -> Result<Credentials, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    {
        self.login.credentials = CredentialSource::Asked(Arc::new(ask));
        self
    }

    /// The SASL mechanisms that may be used, the preferred one first; PLAIN, then AMQPLAIN, by default. Those of one's own
    /// stay, and stay preferred.
    #[must_use]
    pub fn auth_mechanisms(mut self, mechanisms: &[AuthMechanism]) -> Self {
        self.login.mechanisms.retain(|mechanism| matches!(mechanism, Mechanism::Own { .. }));
        self.login.mechanisms.extend(mechanisms.iter().copied().map(Mechanism::Known));
        self
    }

    /// Adds a SASL mechanism of one's own, made anew for each login. It is preferred over those that this library has, and
    /// over those that are added later.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the name is not one of 1 to 20 capital letters, digits, hyphens and underscores.
    ///
    /// # Spec
    /// RFC 4422, 3.1: names of mechanisms.
    pub fn own_mechanism<M: SaslMechanism + 'static>(
        mut self,
        name: &str,
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let is_name =
            |octet: u8| octet.is_ascii_uppercase() || octet.is_ascii_digit() || b"-_".contains(&octet);
        if !(1..=20).contains(&name.len()) || !name.bytes().all(is_name) {
            return Err(Error::invalid(
                "own_mechanism",
                format!("{name:?} is not the name of a SASL mechanism"),
            ));
        }
        let place =
            self.login.mechanisms.iter().take_while(|one| matches!(one, Mechanism::Own { .. })).count();
        let own = Mechanism::Own { name: name.to_owned(), make: Arc::new(move || Box::new(make())) };
        self.login.mechanisms.insert(place, own);
        Ok(self)
    }
}

//! The login: credentials, their sources, and SASL mechanisms.
//!
//! The user's code, such as a source of credentials or a mechanism, is only stored here. The link
//! calls it when the lock is released.

use super::Options;
use crate::error::Error;
use crate::protocol::ShortStr;
use crate::uri::{AuthMechanism, Uri};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A user name and a password. `Debug` omits the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// Creates credentials from a user name and a password.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }

    /// Returns the user name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the password in clear text.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Returns an error if the user name has more than 255 bytes: messages carry it in a short
    /// string.
    pub(crate) fn check(&self) -> Result<(), Error> {
        ShortStr::new(&self.username)
            .map(|_| ())
            .map_err(|error| Error::invalid("the user name of the credentials", error))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A custom SASL mechanism. [`Options::custom_mechanism`] creates one per login.
///
/// The driver calls both methods on its thread and waits for them. No lock is held. Their errors
/// become part of [`Error::CannotLogIn`], so they should not contain a secret.
///
/// # Spec
/// RFC 4422, 3: the exchange; AMQP 0-9-1, `connection.start-ok` and `connection.secure`.
///
/// # Examples
/// ```
/// use puka::{Credentials, Options, SaslMechanism};
/// use std::error::Error;
///
/// /// RabbitMQ's demonstration of a challenge.
/// struct Demonstration { password: String }
///
/// impl SaslMechanism for Demonstration {
///     fn initial_response(
///         &mut self,
///         credentials: &Credentials,
///     ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
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
///     .custom_mechanism("RABBIT-CR-DEMO", || Demonstration { password: String::new() })?;
/// # Ok::<(), puka::Error>(())
/// ```
pub trait SaslMechanism: Send {
    /// Returns the initial response, which is sent with the mechanism's name. Called once, first.
    ///
    /// # Errors
    /// Any reason why there is no response. It ends the connection with [`Error::CannotLogIn`].
    fn initial_response(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;

    /// Returns the response to a challenge of the broker. There are at most eight challenges.
    ///
    /// # Errors
    /// Any fault of the challenge. It ends the connection with [`Error::CannotLogIn`].
    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;
}

type CredentialFn = dyn Fn() -> Result<Credentials, Box<dyn StdError + Send + Sync>> + Send + Sync;
type MechanismFn = dyn Fn() -> Box<dyn SaslMechanism> + Send + Sync;

/// The source of the credentials.
#[derive(Clone)]
pub(crate) enum CredentialSource {
    Fixed(Credentials),
    /// The user's code, called at each login.
    Called(Arc<CredentialFn>),
}

impl CredentialSource {
    pub(crate) fn credentials(&self) -> Result<Credentials, Error> {
        let credentials = match self {
            Self::Fixed(credentials) => credentials.clone(),
            Self::Called(source) => source().map_err(Error::cannot_log_in)?,
        };
        credentials.check()?;
        Ok(credentials)
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(credentials) => credentials.fmt(f),
            Self::Called(_) => f.write_str("a source called at each login"),
        }
    }
}

/// A mechanism that may be used, built-in or custom.
#[derive(Clone)]
pub(crate) enum Mechanism {
    Known(AuthMechanism),
    Custom {
        name: String,
        make: Arc<MechanismFn>,
    },
}

impl Mechanism {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Known(mechanism) => mechanism.name(),
            Self::Custom { name, .. } => name,
        }
    }

    /// Returns `true` if the mechanism is known to send the password in clear text.
    pub(crate) fn shows_password(&self) -> bool {
        matches!(self, Self::Known(mechanism) if mechanism.shows_password())
    }
}

impl fmt::Debug for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The settings of the login.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) credentials: CredentialSource,
    /// In order of preference. Custom mechanisms come first.
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

    /// Replaces the password of later logins. A source of credentials is asked at each login
    /// instead. A secret that is not UTF-8 is not a password, and changes nothing.
    pub(crate) fn set_secret(&mut self, secret: &[u8]) {
        if let CredentialSource::Fixed(credentials) = &mut self.credentials
            && let Ok(secret) = str::from_utf8(secret)
        {
            secret.clone_into(&mut credentials.password);
        }
    }

    /// Returns `true` if the mechanism may be used over this transport.
    pub(crate) fn allows(&self, mechanism: &Mechanism) -> bool {
        self.encrypted_transport || !self.refuse_unencrypted || !mechanism.shows_password()
    }

    /// Returns the user name of the login, if it is known before the login: the credentials are
    /// fixed, and every mechanism sends their user name.
    pub(crate) fn username(&self) -> Option<&str> {
        let sends_user_name = |mechanism: &Mechanism| {
            matches!(mechanism, Mechanism::Known(mechanism)
                if mechanism.shows_password())
        };
        match &self.credentials {
            CredentialSource::Fixed(credentials) if self.mechanisms.iter().all(sends_user_name) => {
                Some(credentials.username())
            }
            _ => None,
        }
    }

    /// Refuses a login that is impossible: without a mechanism, or with invalid credentials.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.mechanisms.is_empty() {
            return Err(Error::invalid(
                "auth_mechanisms",
                "at least one mechanism is required",
            ));
        }
        if !self
            .mechanisms
            .iter()
            .any(|mechanism| self.allows(mechanism))
        {
            return Err(Error::UnencryptedLogin);
        }
        match &self.credentials {
            CredentialSource::Fixed(credentials) => credentials.check(),
            CredentialSource::Called(_) => Ok(()),
        }
    }
}

impl Options {
    /// Sets the user name and password.
    #[must_use]
    pub fn credentials(mut self, username: &str, password: &str) -> Self {
        self.login.credentials = CredentialSource::Fixed(Credentials::new(username, password));
        self
    }

    /// Sets a source that is called for the credentials at each login, for tokens that expire and
    /// passwords that rotate.
    ///
    /// The driver calls it on its thread after the broker has sent its mechanisms, and waits for
    /// it. No lock is held. It has to return within [`handshake_timeout`](Self::handshake_timeout).
    /// Its error becomes part of [`Error::CannotLogIn`], so it should not contain a secret.
    ///
    /// ```
    /// use puka::{Credentials, Options};
    ///
    /// let options = Options::default().credentials_from(|| {
    ///     Ok(Credentials::new("invoices", std::fs::read_to_string("/run/secrets/token")?.trim()))
    /// });
    /// ```
    #[must_use]
    pub fn credentials_from<F>(mut self, source: F) -> Self
    where
        F: Fn() -> Result<Credentials, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    {
        self.login.credentials = CredentialSource::Called(Arc::new(source));
        self
    }

    /// Sets the allowed built-in SASL mechanisms in order of preference; PLAIN, then AMQPLAIN, by
    /// default. Custom mechanisms stay, and are preferred to these.
    #[must_use]
    pub fn auth_mechanisms(mut self, mechanisms: &[AuthMechanism]) -> Self {
        self.login
            .mechanisms
            .retain(|mechanism| matches!(mechanism, Mechanism::Custom { .. }));
        self.login
            .mechanisms
            .extend(mechanisms.iter().copied().map(Mechanism::Known));
        self
    }

    /// Adds a custom SASL mechanism, which is created for each login. It is preferred to the
    /// built-in mechanisms, and to custom ones that are added later.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless the name consists of 1 to 20 capital letters, digits,
    /// hyphens and underscores.
    ///
    /// # Spec
    /// RFC 4422, 3.1: names of mechanisms.
    pub fn custom_mechanism<M: SaslMechanism + 'static>(
        mut self,
        name: &str,
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let is_name =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if !(1..=20).contains(&name.len()) || !name.bytes().all(is_name) {
            return Err(Error::invalid(
                "custom_mechanism",
                format!(
                    "{name:?} is not a SASL mechanism name of 1 to 20 characters A-Z, 0-9, - and _"
                ),
            ));
        }
        let index = self
            .login
            .mechanisms
            .iter()
            .take_while(|mechanism| matches!(mechanism, Mechanism::Custom { .. }))
            .count();
        let mechanism = Mechanism::Custom {
            name: name.to_owned(),
            make: Arc::new(move || Box::new(make())),
        };
        self.login.mechanisms.insert(index, mechanism);
        Ok(self)
    }
}

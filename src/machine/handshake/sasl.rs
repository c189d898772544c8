//! SASL: choosing a mechanism, and what it responds (RabbitMQ's access control guide).
//!
//! A [`LoginStep`] may run code of the user's, so the machine only hands it out, and takes in what
//! came of it.

use crate::error::Error;
use crate::options::{CredentialSource, Credentials, Login, Mechanism, SaslMechanism};
use crate::protocol::{EncodeError, Table};
use crate::uri::AuthMechanism;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is to be done for the login outside of the machine: asking the user for credentials, or a
/// mechanism of the user's own for an answer.
#[must_use = "the handshake waits for it"]
pub struct LoginStep(SaslStep);

/// What came of a [`LoginStep`].
#[derive(Debug)]
#[must_use = "the handshake waits for it"]
pub struct LoginOutcome(pub(crate) Result<Response, Error>);

impl LoginOutcome {
    /// Replaces the user's mechanism with another that wraps it.
    pub(crate) fn map_mechanism(
        mut self,
        map: impl FnOnce(Box<dyn SaslMechanism>) -> Box<dyn SaslMechanism>,
    ) -> Self {
        if let Ok(response) = &mut self.0
            && let SaslSession::Own(_) = response.session
            && let SaslSession::Own(own) = std::mem::replace(
                &mut response.session,
                SaslSession::Done(AuthMechanism::Plain),
            )
        {
            response.session = SaslSession::Own(map(own));
        }
        self
    }

    /// Returns the error of a failed login step.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.0.as_ref().err()
    }
}

enum SaslStep {
    Begin(Mechanism, CredentialSource),
    Respond(SaslSession, Vec<u8>),
}

/// A response, and the mechanism that goes on from there.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) bytes: SecretBytes,
    pub(crate) session: SaslSession,
    /// Whose name the broker knows us by, when that can be told.
    pub(crate) username: Option<String>,
}

/// Octets that are a secret.
pub(crate) struct SecretBytes(pub(crate) Vec<u8>);

/// A mechanism in the middle of a login.
pub(crate) enum SaslSession {
    /// It has said all it has to say.
    Done(AuthMechanism),
    /// RABBIT-CR-DEMO, which is asked for the password.
    Asked {
        password: String,
    },
    Own(Box<dyn SaslMechanism>),
}

impl fmt::Debug for LoginStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginStep").finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretBytes")
            .field("len", &self.0.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SaslSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(mechanism) => f.debug_tuple("Done").field(mechanism).finish(),
            Self::Asked { .. } => f.debug_struct("Asked").finish_non_exhaustive(),
            Self::Own(_) => f.debug_tuple("Own").finish_non_exhaustive(),
        }
    }
}

/// Picks the mechanism that we prefer among those the server offers.
pub(crate) fn choose(offered: &[u8], login: &Login) -> Result<Mechanism, Error> {
    let offered = String::from_utf8_lossy(offered);
    let is_offered =
        |mechanism: &&Mechanism| offered.split(' ').any(|name| name == mechanism.name());
    let mut common = login.mechanisms.iter().filter(is_offered).peekable();
    if common.peek().is_none() {
        let allowed: Vec<_> = login.mechanisms.iter().map(Mechanism::name).collect();
        return Err(Error::NoMechanism {
            allowed: allowed.join(" "),
            offered: offered.into_owned(),
        });
    }
    common
        .find(|mechanism| login.allows(mechanism))
        .cloned()
        .ok_or(Error::UnencryptedLogin)
}

impl LoginStep {
    pub(crate) fn begin(mechanism: Mechanism, credentials: CredentialSource) -> Self {
        Self(SaslStep::Begin(mechanism, credentials))
    }

    pub(crate) fn respond(session: SaslSession, challenge: &[u8]) -> Self {
        Self(SaslStep::Respond(session, challenge.to_vec()))
    }

    /// Returns `true` if this step begins a login.
    pub(crate) fn is_first(&self) -> bool {
        matches!(self.0, SaslStep::Begin(..))
    }

    /// Whether it runs code of the user's.
    pub(crate) fn is_the_users(&self) -> bool {
        match &self.0 {
            SaslStep::Begin(mechanism, credentials) => {
                matches!(mechanism, Mechanism::Own { .. })
                    || matches!(credentials, CredentialSource::Asked(_))
            }
            SaslStep::Respond(session, _) => matches!(session, SaslSession::Own(_)),
        }
    }

    /// Runs the step. The caller must not hold a lock: the user's code may take long and may call
    /// the client. A panic of the user's code becomes the error of this login, so that it does not
    /// end the driver and the handshake does not wait for its deadline.
    pub fn run(self) -> LoginOutcome {
        let outcome = catch_unwind(AssertUnwindSafe(|| match self.0 {
            SaslStep::Begin(mechanism, credentials) => begin(mechanism, &credentials),
            SaslStep::Respond(session, challenge) => respond(session, &challenge),
        }));
        LoginOutcome(outcome.unwrap_or_else(|_| {
            Err(Error::cannot_log_in(
                "the credential source or the mechanism panicked",
            ))
        }))
    }
}

fn begin(mechanism: Mechanism, credentials: &CredentialSource) -> Result<Response, Error> {
    match mechanism {
        // The transport says who we are, or nobody does: there is nothing to add, and nobody to
        // ask.
        Mechanism::Known(known @ (AuthMechanism::External | AuthMechanism::Anonymous)) => {
            Ok(Response {
                bytes: SecretBytes(Vec::new()),
                session: SaslSession::Done(known),
                username: None,
            })
        }
        Mechanism::Known(known) => {
            let credentials = credentials.credentials()?;
            let (bytes, session) = initial_response(known, &credentials)?;
            let username = Some(credentials.username().to_owned());
            Ok(Response {
                bytes: SecretBytes(bytes),
                session,
                username,
            })
        }
        Mechanism::Own { make, .. } => {
            let mut own = make();
            let bytes = own
                .initial_response(&credentials.credentials()?)
                .map_err(Error::cannot_log_in)?;
            Ok(Response {
                bytes: SecretBytes(bytes),
                session: SaslSession::Own(own),
                username: None,
            })
        }
    }
}

fn respond(session: SaslSession, challenge: &[u8]) -> Result<Response, Error> {
    let (bytes, session) = match session {
        SaslSession::Asked { password } => (
            format!("My password is {password}").into_bytes(),
            SaslSession::Done(AuthMechanism::RabbitCrDemo),
        ),
        SaslSession::Done(mechanism) => {
            let reason = format!(
                "{} has no answer to another challenge of the server",
                mechanism.name()
            );
            return Err(Error::cannot_log_in(reason));
        }
        SaslSession::Own(mut own) => {
            let bytes = own.answer(challenge).map_err(Error::cannot_log_in)?;
            (bytes, SaslSession::Own(own))
        }
    };
    Ok(Response {
        bytes: SecretBytes(bytes),
        session,
        username: None,
    })
}

fn initial_response(
    mechanism: AuthMechanism,
    credentials: &Credentials,
) -> Result<(Vec<u8>, SaslSession), Error> {
    let bytes = match mechanism {
        AuthMechanism::Plain => plain(credentials)?,
        AuthMechanism::Amqplain => {
            amqplain(credentials).map_err(|error| Error::invalid("credentials", error))?
        }
        AuthMechanism::RabbitCrDemo => {
            let password = credentials.password().to_owned();
            return Ok((
                credentials.username().as_bytes().to_vec(),
                SaslSession::Asked { password },
            ));
        }
        AuthMechanism::External | AuthMechanism::Anonymous => Vec::new(),
    };
    Ok((bytes, SaslSession::Done(mechanism)))
}

/// RFC 4616, with an empty authorization identity: NUL, user, NUL, password.
fn plain(credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let (username, password) = (credentials.username(), credentials.password());
    if username.contains('\0') || password.contains('\0') {
        return Err(Error::invalid(
            "credentials",
            "PLAIN can't express a NUL in a user name or password",
        ));
    }
    Ok(format!("\0{username}\0{password}").into_bytes())
}

/// A field table without its length.
fn amqplain(credentials: &Credentials) -> Result<Vec<u8>, EncodeError> {
    let mut table = Table::new();
    table.insert("LOGIN", credentials.username())?;
    table.insert("PASSWORD", credentials.password())?;
    Ok(table.as_ref().as_octets().to_vec())
}

#[cfg(test)]
mod tests;

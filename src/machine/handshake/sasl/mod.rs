//! SASL: the choice of a mechanism, and its responses (RabbitMQ's access control guide).
//!
//! A [`LoginStep`] may run the user's code, so the state machine only returns it and receives its
//! outcome.

use crate::error::Error;
use crate::options::{CredentialSource, Credentials, Login, Mechanism, SaslMechanism};
use crate::protocol::{EncodeError, Table};
use crate::uri::AuthMechanism;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A step of the login to run outside of the state machine: getting the user's credentials, or the
/// response of the user's own mechanism.
#[must_use = "the handshake waits for it"]
pub struct LoginStep(SaslStep);

/// The outcome of a [`LoginStep`].
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

/// The data of a [`LoginStep`].
enum SaslStep {
    Begin(Mechanism, CredentialSource),
    /// The mechanism and the challenge.
    Respond(SaslSession, Vec<u8>),
}

/// A response, and the mechanism that handles further challenges.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) bytes: SecretBytes,
    pub(crate) session: SaslSession,
    /// The user name of the login, if it is known.
    pub(crate) username: Option<String>,
}

/// Secret bytes, which are not printed.
pub(crate) struct SecretBytes(pub(crate) Vec<u8>);

/// The mechanism of a pending login.
pub(crate) enum SaslSession {
    /// The mechanism has no further response.
    Done(AuthMechanism),
    /// RABBIT-CR-DEMO. The next challenge asks for the password.
    PasswordAsked { password: String },
    /// A mechanism of the user.
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
            Self::PasswordAsked { .. } => f.debug_struct("PasswordAsked").finish_non_exhaustive(),
            Self::Own(_) => f.debug_tuple("Own").finish_non_exhaustive(),
        }
    }
}

/// Returns the first allowed mechanism that the server offers. It "must be one of those specified
/// by the server" (1.4.2.2, `mechanism`).
///
/// # Errors
/// The server offers no allowed mechanism, or only those that show the password on an unencrypted
/// transport.
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
    /// Returns the first step of a login.
    pub(crate) fn begin(mechanism: Mechanism, credentials: CredentialSource) -> Self {
        Self(SaslStep::Begin(mechanism, credentials))
    }

    /// Returns the step that responds to a challenge.
    pub(crate) fn respond(session: SaslSession, challenge: &[u8]) -> Self {
        Self(SaslStep::Respond(session, challenge.to_vec()))
    }

    /// Returns `true` if this step begins a login.
    pub(crate) fn is_first(&self) -> bool {
        matches!(self.0, SaslStep::Begin(..))
    }

    /// Returns `true` if [`run`](Self::run) runs the user's code.
    pub(crate) fn runs_user_code(&self) -> bool {
        match &self.0 {
            SaslStep::Begin(mechanism, credentials) => {
                matches!(mechanism, Mechanism::Custom { .. })
                    || matches!(credentials, CredentialSource::Called(_))
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

/// Returns the first response of a mechanism.
fn begin(mechanism: Mechanism, credentials: &CredentialSource) -> Result<Response, Error> {
    match mechanism {
        // EXTERNAL takes the identity from the transport, and ANONYMOUS has none. Neither needs
        // credentials, so the user's code is not asked.
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
        Mechanism::Custom { make, .. } => {
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

/// Returns the response to a challenge.
fn respond(session: SaslSession, challenge: &[u8]) -> Result<Response, Error> {
    let (bytes, session) = match session {
        SaslSession::PasswordAsked { password } => (
            format!("My password is {password}").into_bytes(),
            SaslSession::Done(AuthMechanism::RabbitCrDemo),
        ),
        SaslSession::Done(mechanism) => {
            let reason = format!(
                "{} has no response to another challenge of the server",
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

/// Returns the first response of a known mechanism, and what handles a challenge.
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
                SaslSession::PasswordAsked { password },
            ));
        }
        AuthMechanism::External | AuthMechanism::Anonymous => Vec::new(),
    };
    Ok((bytes, SaslSession::Done(mechanism)))
}

/// Returns the response of PLAIN (RFC 4616) with an empty authorization identity: NUL, user, NUL,
/// password.
fn plain(credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let (username, password) = (credentials.username(), credentials.password());
    if username.contains('\0') || password.contains('\0') {
        return Err(Error::invalid(
            "credentials",
            "PLAIN cannot express a NUL in a user name or password",
        ));
    }
    Ok(format!("\0{username}\0{password}").into_bytes())
}

/// Returns the response of AMQPLAIN: a field table without its length.
fn amqplain(credentials: &Credentials) -> Result<Vec<u8>, EncodeError> {
    let mut table = Table::new();
    table.insert("LOGIN", credentials.username())?;
    table.insert("PASSWORD", credentials.password())?;
    Ok(table.as_ref().as_bytes().to_vec())
}

#[cfg(test)]
mod tests;

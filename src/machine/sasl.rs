//! SASL: choosing a mechanism, and its response (REFERENCE: RabbitMQ's access control guide).

use crate::error::Error;
use crate::options::{Credentials, Options};
use crate::protocol::{EncodeError, Table};
use crate::uri::AuthMechanism;

/// Picks the mechanism that we prefer among those the server offers.
pub(super) fn choose(offered: &[u8], options: &Options) -> Result<AuthMechanism, Error> {
    let offered = String::from_utf8_lossy(offered);
    let allowed = &options.mechanisms;
    let chosen = allowed.iter().find(|mechanism| offered.split(' ').any(|name| name == mechanism.name()));
    chosen.copied().ok_or_else(|| Error::NoMechanism {
        allowed: allowed.iter().map(|mechanism| mechanism.name()).collect::<Vec<_>>().join(" "),
        offered: offered.into_owned(),
    })
}

/// The response that logs in.
pub(super) fn response(mechanism: AuthMechanism, credentials: &Credentials) -> Result<Vec<u8>, Error> {
    match mechanism {
        AuthMechanism::Plain => plain(credentials),
        AuthMechanism::Amqplain => {
            amqplain(credentials).map_err(|error| Error::invalid("credentials", error))
        }
    }
}

/// RFC 4616, with an empty authorization identity: NUL, user, NUL, password.
fn plain(credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let (username, password) = (credentials.username(), credentials.password());
    if username.contains('\0') || password.contains('\0') {
        return Err(Error::invalid("credentials", "PLAIN can't express a NUL in a user name or password"));
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
mod tests {
    use super::*;

    fn credentials(username: &str, password: &str) -> Credentials {
        Credentials::new(username, password)
    }

    #[test]
    fn responses_are_as_rabbitmq_reads_them() {
        let guest = credentials("guest", "guest");
        assert_eq!(response(AuthMechanism::Plain, &guest).unwrap(), b"\0guest\0guest");
        let amqplain = response(AuthMechanism::Amqplain, &guest).unwrap();
        assert_eq!(amqplain, b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest");
    }

    #[test]
    fn plain_refuses_a_nul_which_it_cannot_express() {
        let error = response(AuthMechanism::Plain, &credentials("a\0b", "secret")).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }));
        assert!(!format!("{error:?} {error}").contains("secret"));
    }

    #[test]
    fn e24_the_preferred_mechanism_that_is_offered_is_chosen() {
        let options = Options::default();
        assert_eq!(choose(b"AMQPLAIN PLAIN", &options).unwrap(), AuthMechanism::Plain);
        assert_eq!(choose(b"EXTERNAL AMQPLAIN", &options).unwrap(), AuthMechanism::Amqplain);
        let error = choose(b"EXTERNAL PLAINER", &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no common SASL mechanism: the server offers EXTERNAL PLAINER, the options allow PLAIN AMQPLAIN"
        );
    }
}

//! Reading the value of a query parameter.
//!
//! Knows no parameter's name.

use std::str::FromStr;

use super::error::UriError;
use super::piece::Piece;

/// Takes a value for a parameter that has none yet.
pub(super) fn once<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::RepeatedParameter { name }),
    }
}

/// Takes a number for a parameter that has none yet.
pub(super) fn number<T: FromStr>(
    slot: &mut Option<T>,
    name: &'static str,
    value: Piece<'_>,
    expected: &'static str,
) -> Result<(), UriError> {
    // `parse` alone would take a sign.
    let digits = value.decode()?;
    let number = if digits.bytes().all(|octet| octet.is_ascii_digit()) { digits.parse().ok() } else { None };
    once(slot, name, number.ok_or(UriError::BadParameter { name, at: value.at, expected })?)
}

/// A value that is not empty and has no NUL, which no path and no file's passphrase has.
pub(super) fn text(name: &'static str, value: Piece<'_>, expected: &'static str) -> Result<String, UriError> {
    let text = value.decode()?;
    if text.is_empty() || text.contains('\0') {
        return Err(UriError::BadParameter { name, at: value.at, expected });
    }
    Ok(text)
}

/// Which of two words a value is.
pub(super) fn one_of(
    name: &'static str,
    value: Piece<'_>,
    yes: &str,
    no: &str,
    expected: &'static str,
) -> Result<bool, UriError> {
    match value.decode()? {
        text if text == yes => Ok(true),
        text if text == no => Ok(false),
        _ => Err(UriError::BadParameter { name, at: value.at, expected }),
    }
}

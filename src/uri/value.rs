//! Parsing of query parameter values.

use std::str::FromStr;

use super::error::UriError;
use super::span::Span;

/// Sets the value of a parameter. Returns an error if it is set already.
pub(super) fn set_once<T>(
    slot: &mut Option<T>,
    name: &'static str,
    value: T,
) -> Result<(), UriError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::RepeatedParameter { name }),
    }
}

/// Parses a number and sets it as the value of a parameter. Returns an error if that is set
/// already.
pub(super) fn set_number<T: FromStr>(
    slot: &mut Option<T>,
    name: &'static str,
    value: Span<'_>,
    expected: &'static str,
) -> Result<(), UriError> {
    // `parse` alone would accept a sign.
    let digits = value.decode()?;
    let number = if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    };
    set_once(
        slot,
        name,
        number.ok_or(UriError::BadParameter {
            name,
            at: value.at,
            expected,
        })?,
    )
}

/// Parses a text that is not empty and has no NUL, which no path or passphrase in a file contains.
pub(super) fn text(
    name: &'static str,
    value: Span<'_>,
    expected: &'static str,
) -> Result<String, UriError> {
    let text = value.decode()?;
    if text.is_empty() || text.contains('\0') {
        return Err(UriError::BadParameter {
            name,
            at: value.at,
            expected,
        });
    }
    Ok(text)
}

/// Parses one of two words. Returns `true` for `yes`.
pub(super) fn one_of(
    name: &'static str,
    value: Span<'_>,
    yes: &str,
    no: &str,
    expected: &'static str,
) -> Result<bool, UriError> {
    match value.decode()? {
        text if text == yes => Ok(true),
        text if text == no => Ok(false),
        _ => Err(UriError::BadParameter {
            name,
            at: value.at,
            expected,
        }),
    }
}

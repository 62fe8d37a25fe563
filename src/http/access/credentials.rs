//! Credentials: which requests may read, and which may also change something. Pure.
//!
//! A request can have credentials in two places: in `Authorization` (Basic or Bearer) and in `?token=`. One valid place
//! is enough, since a proxy may use the other for itself, but all credentials in that place must be valid.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;

use crate::http::server::head::trim;

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Reading: streams, snapshots, stills, figures.
    Read,
    /// Reading, and changing the camera's controls.
    Control,
}

/// The known credentials. Without any, every request is allowed.
#[derive(Default)]
pub struct Credentials(Vec<Credential>);

struct Credential {
    kind: Kind,
    /// What a request contains: a token, or base64 of user and password. Never printed.
    secret: String,
    right: Right,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Token,
}

/// The result of checking a request's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request may go on.
    Allowed,
    /// It has none.
    Missing,
    /// It has one that is not valid.
    Wrong,
    /// It may read, but it needs the right to change something.
    ReadOnly,
}

impl Credentials {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a user. The password may be empty, as with uStreamer.
    pub fn add_user(&mut self, user: &str, password: &str, right: Right) -> Result<(), &'static str> {
        if user.is_empty() || user.contains(':') || [user, password].iter().any(|text| text.contains(char::is_control))
        {
            return Err("a user has a name without a colon, and neither name nor password has control characters");
        }
        let secret = STANDARD_NO_PAD.encode(format!("{user}:{password}"));
        self.0.push(Credential { kind: Kind::User, secret, right });
        Ok(())
    }

    /// Adds a token.
    pub fn add_token(&mut self, token: &str, right: Right) -> Result<(), &'static str> {
        if token.is_empty() || token.contains(char::is_control) {
            return Err("a token is not empty and has no control characters");
        }
        self.0.push(Credential { kind: Kind::Token, secret: normalize_token(token), right });
        Ok(())
    }

    /// Adds the credentials in a file's text: `user:password` or `token:TOKEN` on each line, optionally with `read` or
    /// `control` (the default) in front. Empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// Names the invalid line by its number, and never repeats its text.
    pub fn add_file(&mut self, text: &str) -> Result<(), String> {
        let before = self.len();
        // Editors on Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (right, rest) = match line.split_once([' ', '\t']) {
                Some(("read", rest)) => (Right::Read, rest.trim_start()),
                Some(("control", rest)) => (Right::Control, rest.trim_start()),
                _ => (Right::Control, line),
            };
            let added = match rest.split_once(':') {
                Some(("token", token)) => self.add_token(token, right),
                Some((_, "")) => Err("there is no password behind the colon"),
                Some((user, password)) => self.add_user(user, password, right),
                None => Err("give user:password or token:TOKEN, with read or control and a space in front or without"),
            };
            added.map_err(|why| format!("line {}: {why}", number + 1))?;
        }
        if self.len() == before { Err("there is no credential in it".into()) } else { Ok(()) }
    }

    /// Adds the credentials in the environment: `FRAMEHUB_TOKEN`, and `FRAMEHUB_USER` with `FRAMEHUB_PASSWORD`.
    ///
    /// # Errors
    /// When one is invalid, or empty: it was meant to protect the server.
    pub fn add_environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        if let Some(token) = variable("FRAMEHUB_TOKEN") {
            self.add_token(&token, Right::Control).map_err(|why| format!("FRAMEHUB_TOKEN: {why}"))?;
        }
        match (variable("FRAMEHUB_USER"), variable("FRAMEHUB_PASSWORD")) {
            (None, None) => Ok(()),
            (Some(user), Some(password)) if !password.is_empty() => {
                self.add_user(&user, &password, Right::Control).map_err(|why| format!("FRAMEHUB_USER: {why}"))
            }
            _ => Err("FRAMEHUB_USER and FRAMEHUB_PASSWORD go together, and neither is empty".into()),
        }
    }

    /// Checks the values of `Authorization` and of `token` in a request that needs this right.
    pub fn check(&self, authorization: &[&str], tokens: &[String], needed: Right) -> Verdict {
        if self.is_empty() {
            return Verdict::Allowed;
        }
        let fields = || authorization.iter().filter(|field| !trim(field).is_empty());
        let tokens = tokens.iter().filter(|token| !token.is_empty());
        // An invalid credential counts less than any right, so the minimum decides.
        let by_header = fields().map(|field| self.by_header(field)).reduce(Option::min);
        let by_query = tokens.map(|token| self.find(Kind::Token, &normalize_token(token))).reduce(Option::min);
        let best = by_header.flatten().max(by_query.flatten());
        match best {
            Some(right) if right >= needed => Verdict::Allowed,
            Some(_) => Verdict::ReadOnly,
            None if by_header.is_none() && by_query.is_none() => Verdict::Missing,
            None => Verdict::Wrong,
        }
    }

    /// The values of `WWW-Authenticate` for a 401, one for each kind of known credential.
    pub fn challenges(&self) -> impl Iterator<Item = &'static str> {
        let ways =
            [(Kind::User, r#"Basic realm="framehub", charset="UTF-8""#), (Kind::Token, r#"Bearer realm="framehub""#)];
        ways.into_iter().filter(|(kind, _)| self.0.iter().any(|known| known.kind == *kind)).map(|(_, text)| text)
    }

    fn by_header(&self, field: &str) -> Option<Right> {
        let (_, shown) = trim(field).split_once(' ')?;
        let shown = trim(shown);
        if is_scheme(field, "Basic") {
            self.find(Kind::User, shown.trim_end_matches('='))
        } else if is_scheme(field, "Bearer") {
            self.find(Kind::Token, &normalize_token(shown))
        } else {
            None
        }
    }

    /// Compares with all credentials in constant time, so that the time tells nothing but perhaps a length.
    fn find(&self, kind: Kind, shown: &str) -> Option<Right> {
        let of_kind = self.0.iter().filter(|known| known.kind == kind);
        let is_it = |known: &&Credential| bool::from(known.secret.as_bytes().ct_eq(shown.as_bytes()));
        of_kind.filter(is_it).map(|known| known.right).max()
    }
}

/// Makes a space and `+` equal: a query has `+` for a space, and a base64 token in a query is rarely encoded.
fn normalize_token(token: &str) -> String {
    token.replace(' ', "+")
}

fn is_scheme(field: &str, scheme: &str) -> bool {
    trim(field).split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Allowed, Missing, ReadOnly, Wrong};
    use super::*;

    fn known(file: &str) -> Credentials {
        let mut credentials = Credentials::default();
        credentials.add_file(file).unwrap();
        credentials
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    #[test]
    fn everybody_may_do_everything_where_there_are_no_credentials() {
        let none = Credentials::default();
        assert_eq!(none.check(&["Basic bogus"], &["bogus".into()], Right::Control), Allowed);
        assert_eq!(none.challenges().count(), 0);
    }

    #[test]
    fn every_way_to_show_a_credential() {
        let known =
            known("read ann:pw\ncontrol ben:s:e c\u{f6}t\nread token:look+4/me==\ntoken:s3cret\ntoken:two words");
        let (ann, ben) = (basic("ann:pw"), basic("ben:s:e cöt"));
        let (unpadded, spaced) = (ann.trim_end_matches('=').to_owned(), ann.replace(' ', "   "));
        let (shouted, wrong, empty) = (ann.replace("Basic", "BASIC"), basic("ann:pw2"), basic(":"));
        let (user_only, no_user, latin) = (basic("ann"), basic(":pw"), basic("ann:pw\0"));
        let cases: &[(&[&str], &[&str], Verdict, Verdict)] = &[
            // What Authorization says, what token says; what that is worth to look, and to change something.
            (&[], &[], Missing, Missing),
            (&[""], &[""], Missing, Missing),
            (&[&ann], &[], Allowed, ReadOnly),
            (&[&unpadded], &[], Allowed, ReadOnly),
            (&[&spaced], &[], Allowed, ReadOnly),
            (&[&shouted], &[], Allowed, ReadOnly),
            (&[&ben], &[], Allowed, Allowed),
            (&["Bearer s3cret"], &[], Allowed, Allowed),
            (&["bearer  s3cret "], &[], Allowed, Allowed),
            (&["Bearer look+4/me=="], &[], Allowed, ReadOnly),
            (&[], &["s3cret"], Allowed, Allowed),
            (&[], &["look+4/me=="], Allowed, ReadOnly),
            (&[], &["look 4/me=="], Allowed, ReadOnly),
            (&[], &["two words"], Allowed, Allowed),
            (&["Bearer two words"], &[], Allowed, Allowed),
            // Wrong ones.
            (&[&wrong], &[], Wrong, Wrong),
            (&[&empty], &[], Wrong, Wrong),
            (&[&user_only], &[], Wrong, Wrong),
            (&[&no_user], &[], Wrong, Wrong),
            (&[&latin], &[], Wrong, Wrong),
            (&["Basic"], &[], Wrong, Wrong),
            (&["Basic "], &[], Wrong, Wrong),
            (&["Basic ann:pw"], &[], Wrong, Wrong),
            (&["Basic s3cret"], &[], Wrong, Wrong),
            (&["Bearer"], &[], Wrong, Wrong),
            (&["Bearer S3CRET"], &[], Wrong, Wrong),
            (&["Bearer s3cre"], &[], Wrong, Wrong),
            (&["Bearer s3crett"], &[], Wrong, Wrong),
            (&["Digest username=\"ann\""], &[], Wrong, Wrong),
            (&["s3cret"], &[], Wrong, Wrong),
            (&[], &["s3cret "], Wrong, Wrong),
            (&[], &["ann:pw"], Wrong, Wrong),
            (&[], &["s3cret\0"], Wrong, Wrong),
            // Doubled: all in one place have to be right.
            (&[&ann, &wrong], &[], Wrong, Wrong),
            (&[&wrong, &ann], &[], Wrong, Wrong),
            (&[&ann, &ben], &[], Allowed, ReadOnly),
            (&[], &["s3cret", "s3cret"], Allowed, Allowed),
            (&[], &["s3cret", "wrong"], Wrong, Wrong),
            (&[], &["wrong", "s3cret"], Wrong, Wrong),
            (&[], &["s3cret", "look+4/me=="], Allowed, ReadOnly),
            // In both places: one that is right is enough, and the better one counts.
            (&[&wrong], &["s3cret"], Allowed, Allowed),
            (&[&ben], &["wrong"], Allowed, Allowed),
            (&[&ann], &["s3cret"], Allowed, Allowed),
            (&[&ben], &["look+4/me=="], Allowed, Allowed),
            (&[&wrong], &["wrong"], Wrong, Wrong),
        ];
        for (fields, tokens, look, change) in cases {
            let tokens: Vec<String> = tokens.iter().map(|token| token.to_string()).collect();
            assert_eq!(known.check(fields, &tokens, Right::Read), *look, "to look: {fields:?} {tokens:?}");
            assert_eq!(known.check(fields, &tokens, Right::Control), *change, "to change: {fields:?} {tokens:?}");
        }
        assert_eq!(known.challenges().count(), 2);
    }

    #[test]
    fn each_way_is_offered_only_where_it_leads_somewhere() {
        assert_eq!(known("a:b").challenges().collect::<Vec<_>>(), [r#"Basic realm="framehub", charset="UTF-8""#]);
        assert_eq!(known("token:b").challenges().collect::<Vec<_>>(), [r#"Bearer realm="framehub""#]);
    }

    #[test]
    fn files_are_read_by_line() {
        for (text, count) in [
            ("a:b", 1),
            ("# users\r\n\r\n  control a:b c \r\nread\ttoken:x\r\n", 2),
            ("read:b\ncontrol:c", 2),
            ("a:b:c", 1),
        ] {
            assert_eq!(known(text).len(), count, "{text:?}");
        }
        for (text, words) in [
            ("", "no credential"),
            ("# only\n\n", "no credential"),
            ("a:b\nS3cret", "line 2"),
            ("S3cret:", "line 1: there is no password"),
            (":S3cret", "line 1"),
            ("token:", "line 1"),
            ("token:S3cret\u{7}", "control characters"),
            ("\nwrite a:S3cret\0", "line 2"),
        ] {
            let error = Credentials::default().add_file(text).unwrap_err();
            assert!(error.contains(words) && !error.contains("S3cret"), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_environment_gives_both_kinds_or_says_what_is_missing() {
        let from = |pairs: &[(&str, &str)]| {
            let mut credentials = Credentials::default();
            let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            credentials.add_environment(get).map(|()| credentials.len())
        };
        let (token, user, password) = ("FRAMEHUB_TOKEN", "FRAMEHUB_USER", "FRAMEHUB_PASSWORD");
        assert_eq!(from(&[]), Ok(0));
        assert_eq!(from(&[(token, "S3cret"), (user, "a"), (password, "b")]), Ok(2));
        for wrong in [
            &[(token, "")][..],
            &[(token, "S3cret\n")],
            &[(user, "a")],
            &[(password, "S3cret")],
            &[(user, "a"), (password, "")],
            &[(user, "a:b"), (password, "S3cret")],
        ] {
            let error = from(wrong).unwrap_err();
            assert!(error.contains("FRAMEHUB_") && !error.contains("S3cret"), "{error}");
        }
    }
}

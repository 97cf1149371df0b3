//! Why a command ended without doing all it should, and the exit code that says so.

use std::fmt::Display;
use std::io;

use tidelog_bench::client::ClientError;

/// Done.
pub const DONE: u8 = 0;
/// Failed: refused by the broker or the operating system.
pub const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub const USAGE: u8 = 2;
/// Damage was found.
pub const DAMAGE: u8 = 3;
/// The broker cannot be reached or did not answer in time.
pub const UNREACHABLE: u8 = 4;
/// Some of it was done.
pub const PARTLY: u8 = 5;

/// A failed command: what is wrong, how to mend it, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with an exit code and one sentence.
    pub fn new(code: u8, message: impl Display) -> Self {
        Failure {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    /// Adds how to mend it.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The end after a closed stdout: nothing to say, nothing wrong.
    pub fn closed_stdout() -> Self {
        Failure::new(DONE, "")
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What is wrong.
    #[cfg(test)]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Writes it to stderr; nothing for a closed stdout.
    pub fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        eprintln!("tidelog: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("  {hint}");
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Configuration(_) => USAGE,
            error if error.is_connection() => UNREACHABLE,
            _ => FAILED,
        };
        let hint = match &error {
            ClientError::Unreachable { .. } => Some(
                "Is a broker running there? Start one with `tidelog serve`, or name another with -b HOST:PORT.",
            ),
            ClientError::TimedOut { .. } => {
                Some("Allow more time with --timeout, or look at the broker's log.")
            }
            ClientError::Malformed { .. }
            | ClientError::Closed {
                what: "ApiVersions", ..
            } => Some("Check that -b names a plaintext Kafka listener, not a TLS, HTTP or admin port."),
            ClientError::TooLarge { .. } => Some("Allow more with -X receive.message.max.bytes=BYTES."),
            _ => error.code().and_then(hint_for_code),
        };
        let failure = Failure::new(code, &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<io::Error> for Failure {
    /// An error of writing to stdout.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed_stdout(),
            _ => Failure::new(FAILED, format!("cannot write to stdout: {error}")),
        }
    }
}

fn hint_for_code(code: i16) -> Option<&'static str> {
    match code {
        3 => Some("See what exists with `tidelog topic list`; make it with `tidelog topic create NAME`."),
        10 => Some("Send smaller records, or raise the topic's max.message.bytes."),
        37 => Some("See how many there are with `tidelog topic describe NAME`."),
        17 => Some("A topic name has 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`."),
        36 => Some("Use --if-not-exists to accept a topic that is there already."),
        38 => Some("This broker keeps one copy; leave -r out or give -r 1."),
        44 => {
            Some("Let records be deleted with `tidelog topic alter NAME -c cleanup.policy=compact,delete`.")
        }
        40 => Some("See a topic's configuration with `tidelog topic describe NAME --all-configs`."),
        56 => Some("The broker's disk refused; see its log."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_from_what_happened() {
        let unreachable = ClientError::Unreachable {
            address: "a:1".into(),
            detail: "refused".into(),
        };
        assert_eq!(Failure::from(unreachable).code(), UNREACHABLE);
        assert_eq!(
            Failure::from(ClientError::Configuration("x".into())).code(),
            USAGE
        );
        let missing = Failure::from(ClientError::broker("topic x", 3, None));
        assert_eq!(missing.code(), FAILED);
        assert!(missing.hint.is_some_and(|h| h.contains("topic create")));
    }

    #[test]
    fn a_closed_stdout_is_no_failure() {
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.code(), closed.message()), (DONE, ""));
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code(),
            FAILED
        );
    }
}

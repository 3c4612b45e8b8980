//! Commands that are shown before they run, with their output where the caller sees it.

use std::{
    fmt,
    process::{Command, ExitStatus},
};

use anyhow::Context as _;

/// A command ended with another exit code than 0.
#[derive(Debug)]
pub(crate) struct Failed {
    command: String,
    status: ExitStatus,
}

impl Failed {
    /// The command as it was shown, and how it ended.
    pub(crate) fn new(command: String, status: ExitStatus) -> Self {
        Self { command, status }
    }

    /// The exit code to end with.
    pub(crate) fn code(&self) -> u8 {
        self.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.status)
    }
}

impl std::error::Error for Failed {}

/// Runs a command, with its output inherited.
///
/// # Errors
/// When it can't be started; [`Failed`] when it ends with another exit code than 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("can't start `{shown}`"))?;
    if status.success() { Ok(()) } else { Err(Failed::new(shown, status).into()) }
}

/// Shows a command that is about to run, and returns what it has shown.
pub(crate) fn show(command: &Command) -> String {
    let shown = shown(command);
    eprintln!("xtask: {shown}");
    shown
}

/// Runs a command and returns what it prints on standard output, trimmed. `None` when it fails.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command as a user would write it, but for quotes.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(name.into()).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_shown_with_its_arguments_and_keeps_its_exit_code() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap_err();
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert_eq!(failed.code(), 7);
        assert_eq!(failed.to_string(), "`sh -c exit 7` failed: exit status: 7");
    }

    #[test]
    fn a_command_that_a_signal_ended_has_failed() {
        let error = run(Command::new("/bin/sh").args(["-c", "kill -KILL $$"])).unwrap_err();
        assert_eq!(error.downcast_ref::<Failed>().unwrap().code(), 1);
    }

    #[test]
    fn an_answer_is_trimmed_and_there_is_none_of_a_failed_command() {
        assert_eq!(answer(Command::new("/bin/sh").args(["-c", "echo ' yes '"])), Some("yes".to_owned()));
        assert_eq!(answer(Command::new("/bin/sh").args(["-c", "echo no; exit 1"])), None);
        assert_eq!(answer(&mut Command::new("/there/is/no/such/program")), None);
    }
}

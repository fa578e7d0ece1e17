//! Flags of the programs in `bin`: each has a value, and what is wrong is said together with the help.

use std::process::ExitCode;

/// The words of a command line, two and two.
#[derive(Debug)]
pub struct Flags(std::vec::IntoIter<String>);

impl Flags {
    /// The next flag and its value.
    pub fn pair(&mut self) -> Result<Option<(String, String)>, String> {
        let Some(flag) = self.0.next() else { return Ok(None) };
        let value = self.0.next().ok_or_else(|| format!("`{flag}` needs a value"))?;
        Ok(Some((flag, value)))
    }
}

/// A number, or what is wrong with it.
pub fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is no number"))
}

/// What is said of a flag that there is not.
pub fn unknown<T>(flag: &str) -> Result<T, String> {
    Err(format!("there is no flag `{flag}`"))
}

/// Reads this program's flags; what it ends with where it has nothing to do: 0 after the help, 2 after a
/// mistake.
#[expect(clippy::print_stdout, reason = "a program for developers that prints what it found")]
pub fn read<T>(help: &str, read: impl Fn(Flags) -> Result<T, String>) -> Result<T, ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{help}");
        return Err(ExitCode::SUCCESS);
    }
    read(Flags(words.into_iter())).map_err(|error| {
        println!("{error}\n\n{help}");
        ExitCode::from(2)
    })
}

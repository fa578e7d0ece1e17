//! The fake application as a program; see [`seaworthy_testkit::fakeapp`].

fn main() -> std::process::ExitCode {
    seaworthy_testkit::fakeapp::main()
}

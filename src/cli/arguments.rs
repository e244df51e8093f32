//! Turns what people type into what clap reads: program names, and Consul's one-dash flags.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context as _;

/// Commands whose flags are spelled with one dash by Consul's and Registrator's users.
const ONE_DASH_COMMANDS: &[&str] = &[
    "agent",
    "bootstrap",
    "registrator",
    "members",
    "join",
    "leave",
    "reload",
    "force-leave",
    "info",
    "kv",
    "catalog",
    "version",
    "status",
    "operator",
];

/// Makes the arguments uniform.
///
/// * Called as `registrator`, the program is that command (DESIGN §9).
/// * With a flag in the place of a command, the command is `agent`: `docker run IMAGE -server -bootstrap`.
/// * In the commands that Consul has too, `-flag` means `--flag`.
///
/// # Errors
/// When an argument is not valid UTF-8.
pub(super) fn normalise(args: Vec<OsString>) -> anyhow::Result<Vec<String>> {
    let mut args = args
        .into_iter()
        .map(|arg| {
            arg.into_string()
                .map_err(|arg| anyhow::anyhow!("the argument `{}` is not valid UTF-8", arg.display()))
        })
        .collect::<anyhow::Result<Vec<String>>>()?;
    let program = args.first().context("the program has no name")?;
    let program = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    if program.as_deref() == Some("registrator") {
        args.insert(1, "registrator".to_owned());
    } else if args.get(1).is_some_and(|first| is_agent_flag(first)) {
        args.insert(1, "agent".to_owned());
    } else if let Some(first) = args.get_mut(1)
        && matches!(first.as_str(), "-v" | "-version" | "--version")
    {
        "version".clone_into(first);
    }
    if args.get(1).is_some_and(|command| ONE_DASH_COMMANDS.contains(&command.as_str())) {
        if program.as_deref() == Some("consul") && args[1] == "version" {
            args.push("--as-consul".to_owned());
        }
        for arg in args.iter_mut().skip(2) {
            if is_one_dash_flag(arg) {
                arg.insert(0, '-');
            }
        }
    }
    Ok(args)
}

fn is_agent_flag(text: &str) -> bool {
    text.len() > 2 && text.starts_with('-') && !matches!(text, "--help" | "-help" | "--version" | "-version")
}

fn is_one_dash_flag(text: &str) -> bool {
    text.len() > 2 && text.starts_with('-') && text.as_bytes()[1].is_ascii_alphabetic()
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[track_caller]
    fn check(typed: &str, read: &str) {
        let args = typed.split(' ').map(Into::into).collect();
        assert_eq!(normalise(args).unwrap().join(" "), read);
    }

    #[test]
    fn consul_flags_work_with_one_dash_or_two() {
        check(
            "corediscover agent -server --bind 1.2.3.4 -x",
            "corediscover agent --server --bind 1.2.3.4 -x",
        );
        check("consul kv put a -1", "consul kv put a -1");
        check("consul kv get -", "consul kv get -");
    }

    #[test]
    fn a_flag_in_the_place_of_a_command_means_the_agent() {
        check("corediscover -server -bootstrap", "corediscover agent --server --bootstrap");
        check("corediscover --help", "corediscover --help");
        check("consul -version", "consul version --as-consul");
    }

    #[test]
    fn the_name_registrator_is_the_command_registrator() {
        check("/bin/registrator -ip 10.0.0.1 consul:", "/bin/registrator registrator --ip 10.0.0.1 consul:");
    }

    #[test]
    fn arguments_of_the_docker_line_stay_as_they_are() {
        check("corediscover cmd:run 10.0.0.1 -it --rm", "corediscover cmd:run 10.0.0.1 -it --rm");
    }
}

//! The command lines of a unit, as systemd takes them apart.

use crate::model::provision::lint::unit_options;

/// A program that a unit starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The option: `ExecStart`.
    pub option: String,
    /// The program and its arguments.
    pub words: Vec<String>,
}

/// The options of a unit that count, in order, of its file and its drop-ins: an empty value takes back what was said
/// before.
fn values<'a>(texts: &[&'a str], wanted: impl Fn(&str) -> bool + 'a) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for text in texts {
        for option in unit_options(text).into_iter().filter(|option| option.section == "Service") {
            if !wanted(&option.key) {
                continue;
            }
            if option.value.is_empty() {
                found.retain(|(key, _)| *key != option.key);
            } else {
                found.push((option.key, option.value));
            }
        }
    }
    found
}

/// All programs that a unit starts.
pub fn commands(texts: &[&str]) -> Vec<Command> {
    let all = values(texts, |key| key.starts_with("Exec"));
    let commands = all.into_iter().map(|(option, value)| {
        // What systemd is told about the program stands before it.
        let line = value.trim_start_matches(['-', '@', ':', '+', '!', '|']);
        Command { option, words: words(line) }
    });
    commands.filter(|command| !command.words.is_empty()).collect()
}

/// The value of a variable in the unit's `Environment`.
pub fn variable(texts: &[&str], name: &str) -> Option<String> {
    let all = values(texts, |key| key == "Environment");
    let words = all.iter().flat_map(|(_, value)| words(value));
    let pairs: Vec<String> = words.collect();
    let value = pairs.iter().rev().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned)
}

/// The words of a line: quotes group them, a backslash keeps what follows, `%%` and `$$` are one of each.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, '\\') => {
                let kept = characters.next().unwrap_or('\\');
                word.get_or_insert_default().push(kept);
            }
            (_, '%' | '$') if characters.peek() == Some(&character) => {
                characters.next();
                word.get_or_insert_default().push(character);
            }
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::{commands, variable, words};
    use crate::model::provision::Spec;
    use crate::model::provision::units::{Manager, RESOLVED, unit_files};

    #[test]
    fn a_line_is_taken_apart_as_systemd_does() {
        assert_eq!(words("a  'b c' \"d\" e\\ f '' 100%% $$x"), ["a", "b c", "d", "e f", "", "100%", "$x"]);
        assert_eq!(
            words(r#"--advertise '{{ GetInterfaceIP "eth0" }}' --expect 3"#)[1],
            r#"{{ GetInterfaceIP "eth0" }}"#
        );
    }

    #[test]
    fn the_units_that_this_program_writes_are_read_back() {
        let files = unit_files(&Spec::default(), Manager::Systemd).unwrap();
        let agent = commands(&[&files[0].text]);
        assert_eq!(agent[0].option, "ExecStart");
        assert_eq!(agent[0].words[..3], ["/opt/bin/corediscover", "bootstrap", "--etcd"]);
        assert_eq!(agent[1].words[0], "/bin/kill");
        assert_eq!(variable(&[&files[1].text], "DOCKER_HOST").unwrap(), "unix:///var/run/docker.sock");
        let resolved = files.iter().find(|file| file.name == RESOLVED).unwrap();
        let resolved = commands(&[&resolved.text]);
        assert_eq!(
            resolved[1].words[..3],
            ["/opt/bin/corediscover", "resolved", "apply"],
            "without the dash"
        );
    }

    #[test]
    fn a_drop_in_takes_back_or_adds() {
        let (unit, drop_in) = ("[Service]\nExecStart=/a b\n", "[Service]\nExecStart=\nExecStart=/c d\n");
        assert_eq!(commands(&[unit, drop_in])[0].words, ["/c", "d"]);
        assert_eq!(commands(&[unit, drop_in]).len(), 1);
        let more = "[Service]\nEnvironment=DOCKER_HOST=tcp://1.2.3.4:5 \"X=y z\"\n";
        assert_eq!(variable(&[unit, more], "X").unwrap(), "y z");
        assert_eq!(variable(&[unit], "X"), None);
    }
}

//! kubectl reads YAML 1.1, where an unquoted `y` or `on` is true. Other readers, ours included, take it for a text, so it has to
//! be looked for in the text itself.

const TRAPS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// Names each line with such a word as a whole value.
pub(crate) fn check(name: &str, text: &str, mistakes: &mut Vec<String>) {
    let mut block: Option<usize> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let indent = line.len() - line.trim_start().len();
        if line.trim().is_empty() {
            continue;
        }
        // A block scalar goes on as long as lines are further in than the key that began it.
        if block.is_some_and(|begin| indent > begin) {
            continue;
        }
        block = opens_block(line).then_some(indent);
        let line = line.split(" #").next().unwrap_or_default();
        for word in line.split(|character: char| character.is_whitespace() || "[]{},".contains(character)) {
            let word = word.strip_suffix(':').unwrap_or(word);
            if TRAPS.iter().any(|trap| word.eq_ignore_ascii_case(trap)) && is_scalar(line, word) {
                mistakes.push(format!(
                    "{name}:{number}: {word} without quotes is true or false to kubectl: quote it"
                ));
            }
        }
    }
}

fn opens_block(line: &str) -> bool {
    ["|", "|-", "|+", ">", ">-", ">+"].iter().any(|mark| {
        line.strip_suffix(mark).is_some_and(|before| before.ends_with(": ") || before.ends_with("- "))
    })
}

/// The word alone is a value, an element or a key, and not one among others of a sentence.
fn is_scalar(line: &str, word: &str) -> bool {
    let trimmed = line.trim();
    let value = trimmed.strip_prefix("- ").unwrap_or(trimmed);
    let value = value.split_once(": ").map_or(value, |(_, value)| value.trim());
    let flow = value.starts_with(['[', '{']);
    let key = trimmed.trim_start_matches("- ").starts_with(&format!("{word}:"));
    !trimmed.starts_with('#') && (value == word || flow || key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        check("a.yaml", text, &mut mistakes);
        mistakes
    }

    #[test]
    fn what_kubectl_takes_for_true_is_named() {
        for text in ["name: y", "- No", "args: [a, on]", "a: {b: off}", "y: 1", "  - name: YES  # said"] {
            assert_eq!(lines(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn what_is_quoted_or_part_of_a_text_is_left_alone() {
        for text in [
            "name: \"y\"",
            "# no",
            "a: on the host",
            "conf: |\n  y\n  no: 1",
            "- name: x\n  value: 'no'",
            "description: turned on, or off",
        ] {
            assert_eq!(lines(text), Vec::<String>::new(), "{text}");
        }
    }
}

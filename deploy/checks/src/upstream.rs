//! Files of other projects are what their NOTICE says they are, byte for byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use entente_lab_parts::sha256;

/// Holds every file below `folder` against the checksums in its NOTICE, in both directions.
///
/// # Errors
///
/// NOTICE, or the folder, cannot be read.
pub fn check(folder: &Path) -> anyhow::Result<Vec<String>> {
    let notice = folder.join("NOTICE");
    let text = fs::read_to_string(&notice).with_context(|| format!("{}", notice.display()))?;
    let named: Vec<(&str, &str)> = text.lines().filter_map(checksum_line).collect();
    let mut mistakes = Vec::new();
    for (wanted, name) in &named {
        match fs::read(folder.join(name)) {
            Ok(bytes) => {
                let found = sha256(&bytes);
                if found != *wanted {
                    mistakes.push(format!(
                        "{name} was edited: NOTICE says sha256 {wanted}, the file has {found}"
                    ));
                }
            }
            Err(error) => mistakes.push(format!("{name} is in NOTICE and cannot be read: {error}")),
        }
    }
    let named: BTreeSet<&str> = named.into_iter().map(|(_, name)| name).collect();
    for name in files_below(folder)? {
        // The kustomizations that name the files are ours: kustomize reads no file from outside its own folder.
        let ours = name == "NOTICE" || name.ends_with("/kustomization.yaml");
        if !ours && !named.contains(name.as_str()) {
            mistakes
                .push(format!("{name} is not in NOTICE: say whose it is, of which version, and its sha256"));
        }
    }
    Ok(mistakes)
}

/// `<64 hex digits>  <path>`, as sha256sum writes it.
fn checksum_line(line: &str) -> Option<(&str, &str)> {
    let (sum, name) = line.split_once("  ")?;
    (sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((sum, name))
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.strip_prefix(folder)?.display().to_string());
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(notice: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("NOTICE"), notice).expect("NOTICE is written");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file is written");
        }
        folder
    }

    fn notice_of(text: &str) -> String {
        format!("Somebody's.\n\n{}  a.yaml\n", sha256(text.as_bytes()))
    }

    #[test]
    fn an_edited_file_is_named() {
        let folder = folder(&notice_of("kind: A"), &[("a.yaml", "kind: B")]);
        let mistakes = check(folder.path()).expect("the folder is readable");
        assert!(matches!(mistakes.as_slice(), [one] if one.starts_with("a.yaml was edited")), "{mistakes:?}");
    }

    #[test]
    fn a_file_that_nobody_vouches_for_is_named() {
        let folder = folder(&notice_of("kind: A"), &[("a.yaml", "kind: A"), ("b.yaml", "kind: B")]);
        let mistakes = check(folder.path()).expect("the folder is readable");
        assert!(
            matches!(mistakes.as_slice(), [one] if one.starts_with("b.yaml is not in NOTICE")),
            "{mistakes:?}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = folder(&notice_of("kind: A"), &[]);
        let mistakes = check(folder.path()).expect("the folder is readable");
        assert!(
            matches!(mistakes.as_slice(), [one] if one.starts_with("a.yaml is in NOTICE")),
            "{mistakes:?}"
        );
    }

    #[test]
    fn what_is_in_deploy_is_what_was_published() {
        assert_eq!(
            check(&crate::folder().join("upstream")).expect("deploy/upstream is readable"),
            Vec::<String>::new()
        );
    }
}

//! The settings inside the ConfigMaps: that the programs understand them, and that they mean what the pods around them mean.

mod agent;
mod controller_manager;
mod endpoint;
mod server;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Cluster, Form};
use crate::object::{list, text};

/// Names each setting that is not understood, and each that does not fit its pod.
pub(crate) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let mut found = Vec::new();
    server::check(cluster, &mut found);
    agent::check(cluster, &mut found);
    controller_manager::check(cluster, &mut found);
    if cluster.form != Form::Stock {
        endpoint::check(cluster, &mut found);
    }
    mistakes
        .extend(found.into_iter().map(|mistake| format!("{} ({:?}): {mistake}", cluster.name, cluster.form)));
}

/// The bundle endpoint's alone, where it has further listeners.
pub(crate) fn check_endpoint(cluster: &Cluster, mistakes: &mut Vec<String>) {
    endpoint::check(cluster, mistakes);
}

/// Wanted values of one file, and what was found.
struct Expected<'a> {
    file: &'a str,
    values: &'a BTreeMap<String, String>,
    mistakes: &'a mut Vec<String>,
}

impl Expected<'_> {
    fn value(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    fn is(&mut self, key: &str, wanted: &str) {
        let found = self.value(key);
        if found != wanted {
            self.mistakes.push(format!("{}: {key} is {found:?}, expected {wanted:?}", self.file));
        }
    }

    fn ensure(&mut self, holds: bool, mistake: &str) {
        if !holds {
            self.mistakes.push(format!("{}: {mistake}", self.file));
        }
    }
}

/// Puts the environment in, as Go's os.ExpandEnv does; what is in no ConfigMap would silently be nothing.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            ),
        };
        if name.is_empty() && !after.starts_with('{') {
            // A dollar sign with no name behind it stays.
            expanded.push('$');
        } else {
            expanded.push_str(environment.get(name).ok_or(format!("nobody sets ${{{name}}}"))?);
        }
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// An HCL file of a container, expanded with its environment. What is wrong is named, and the rest checked on nothing.
fn hcl(
    cluster: &Cluster,
    container: &Value,
    (config, file): (&str, &str),
    mistakes: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let text = cluster.setting(config, file);
    let values = expand(text, &cluster.environment(container))
        .and_then(|text| entente_plugin::checking::values(&text));
    values.unwrap_or_else(|error| {
        mistakes.push(format!("{file}: {error}"));
        BTreeMap::new()
    })
}

/// The volume that a container has where a path is, and the rest of the path.
pub(crate) fn mounted<'a, 'b>(container: &'a Value, path: &'b str) -> Option<(&'a Value, &'b str)> {
    let mounts = list(container, "/volumeMounts").iter();
    let holding = mounts.filter_map(|mount| {
        let rest = path.strip_prefix(text(mount, "/mountPath"))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| (mount, rest.trim_start_matches('/')))
    });
    holding.min_by_key(|(_, rest)| rest.len())
}

/// The volume of a pod, by its name.
pub(crate) fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    list(pod, "/spec/volumes").iter().find(|volume| text(volume, "/name") == name).unwrap_or(&Value::Null)
}

/// The number of a named port of a container.
pub(crate) fn port(container: &Value, name: &str) -> String {
    let found = list(container, "/ports").iter().find(|port| text(port, "/name") == name);
    found.and_then(|port| port.get("containerPort")).map(Value::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expanded_is_what_go_would_expand() {
        let environment = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("${A}-$A.$A", &environment), Ok("1-1.1".into()));
        assert_eq!(expand("^kube-system$\n- x$", &environment), Ok("^kube-system$\n- x$".into()));
        assert_eq!(expand("${B}", &environment), Err("nobody sets ${B}".into()));
    }
}

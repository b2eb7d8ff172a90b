//! The text of every file of deploy/, so that a check may be shown a broken copy; and all checks on it in one go.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, ensure};

use crate::cluster::{Cluster, FORMS, Form, NAMES};
use crate::object::{self, Object};
use crate::{federation, helm, identities, istio, rbac, references, schema, security, settings, yaml};

/// Files by their path below deploy/. Copies share what they have in common, and what was read out of it.
#[derive(Clone, Debug)]
pub struct Deploy {
    files: BTreeMap<String, Arc<File>>,
}

#[derive(Debug)]
struct File {
    text: String,
    objects: OnceLock<Result<Vec<Object>, String>>,
}

impl File {
    fn new(text: String) -> Arc<Self> {
        Arc::new(Self { text, objects: OnceLock::new() })
    }
}

impl Deploy {
    /// Reads everything that a cluster or one of its programs will read.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
                let path = entry?.path();
                let name = path.strip_prefix(folder)?.display().to_string();
                let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                if path.is_dir() && name != "checks" {
                    folders.push(path);
                } else if matches!(ending, "conf" | "env" | "hcl" | "toml" | "txt" | "yaml") {
                    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
                    files.insert(name, File::new(text));
                }
            }
        }
        Ok(Self { files })
    }

    /// The text of a file; empty where there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.files.get(name).map_or("", |file| &file.text)
    }

    /// The objects of a YAML file; none where there is no file, and an error where it is no YAML.
    pub(crate) fn objects(&self, name: &str) -> Result<&[Object], &str> {
        let Some(file) = self.files.get(name) else { return Ok(&[]) };
        let read = || object::parse(name, &file.text).map_err(|error| format!("{name}: {error:#}"));
        file.objects.get_or_init(read).as_deref().map_err(String::as_str)
    }

    /// Every file, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file.text.as_str()))
    }

    /// A copy in which `from` is `to`, in one file, wherever it stands there.
    ///
    /// # Errors
    ///
    /// `from` does not stand there, so the copy would be no other.
    pub fn with(&self, name: &str, from: &str, to: &str) -> anyhow::Result<Self> {
        let text = self.text(name);
        ensure!(text.contains(from), "{from:?} does not stand in {name}");
        Ok(self.with_text(name, &text.replace(from, to)))
    }

    /// A copy in which one file is another.
    #[must_use]
    pub fn with_text(&self, name: &str, text: &str) -> Self {
        let mut copy = self.clone();
        copy.files.insert(name.into(), File::new(text.into()));
        copy
    }

    /// Every mistake, each once.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (name, text) in self.files().filter(|(name, _)| name.ends_with(".yaml")) {
            yaml::check(name, text, &mut mistakes);
        }
        for (name, _) in self.files().filter(|(name, _)| is_applied(name)) {
            match self.objects(name) {
                Ok(objects) => schema::check(self, objects, &mut mistakes),
                Err(error) => mistakes.push(error.into()),
            }
        }
        for form in FORMS {
            let clusters: Vec<Cluster> =
                NAMES.iter().map(|name| Cluster::load(self, name, form, &mut mistakes)).collect();
            for cluster in &clusters {
                references::check(cluster, &mut mistakes);
                security::check(cluster, &mut mistakes);
                rbac::check(self, cluster, &mut mistakes);
                settings::check(cluster, &mut mistakes);
                // Without a bundle endpoint there is nobody for its identity, which does no harm.
                if form != Form::Stock {
                    identities::check(cluster, &mut mistakes);
                }
                helm::check(self, cluster, &mut mistakes);
            }
            federation::check(&clusters, &mut mistakes);
            istio::check(self, &clusters, &mut mistakes);
        }
        mistakes.sort();
        mistakes.dedup();
        mistakes
    }
}

/// What kubectl is given; the rest is for kustomize.
fn is_applied(name: &str) -> bool {
    let entry = NAMES.iter().any(|cluster| {
        let inner = name.strip_prefix(cluster).and_then(|rest| rest.strip_prefix('/'));
        inner.is_some_and(|inner| inner.split('/').count() == 2 && inner.ends_with(".yaml"))
    });
    let mesh = NAMES.iter().any(|cluster| {
        let inner = name.strip_prefix("istio/").and_then(|rest| rest.strip_prefix(cluster));
        let file = inner.and_then(|rest| rest.strip_prefix('/'));
        file.is_some_and(|file| {
            file.ends_with(".yaml") && !file.contains('/') && !file.starts_with("values-")
        })
    });
    (entry || mesh || name == "helm/network-policy.yaml")
        && !name.ends_with("/kustomization.yaml")
        && !name.ends_with("/address.yaml")
}

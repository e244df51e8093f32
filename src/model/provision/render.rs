//! Fills the embedded templates. The only place that knows the template engine.

use tera::{Context, Tera};

/// The templates, by the name that includes use.
const TEMPLATES: [(&str, &str); 14] = [
    ("agent", include_str!("../../../templates/agent.service.tera")),
    ("registrator", include_str!("../../../templates/registrator.service.tera")),
    ("resolved", include_str!("../../../templates/resolved.service.tera")),
    ("containers", include_str!("../../../templates/containers.service.tera")),
    ("packages", include_str!("../../../templates/packages.service.tera")),
    ("install", include_str!("../../../templates/install.service.tera")),
    ("etcd2-checks", include_str!("../../../templates/etcd2-checks.conf.tera")),
    ("cloud-config", include_str!("../../../templates/cloud-config.yaml.tera")),
    ("cloud-init", include_str!("../../../templates/cloud-init.yaml.tera")),
    ("butane", include_str!("../../../templates/butane.yaml.tera")),
    ("compose", include_str!("../../../templates/compose.yaml.tera")),
    ("vagrant", include_str!("../../../templates/Vagrantfile.tera")),
    ("spec-file", include_str!("../../../templates/spec-file.yaml.tera")),
    ("hardening", include_str!("../../../templates/hardening.tera")),
];

/// A template and its values do not fit together: a mistake in this program, not of its user.
#[derive(Debug, thiserror::Error)]
#[error("the template {template} cannot be filled: {reason}")]
pub struct RenderError {
    template: &'static str,
    reason: String,
}

impl RenderError {
    pub(super) fn json(template: &'static str, error: &serde_json::Error) -> Self {
        Self { template, reason: error.to_string() }
    }
}

/// Fills a template with `values`; the text ends with exactly one newline.
///
/// # Errors
/// When the template names a value that is not there.
pub fn render(template: &'static str, values: &impl serde::Serialize) -> Result<String, RenderError> {
    let fill = || -> tera::TeraResult<String> {
        let mut engine = Tera::new();
        engine.add_raw_templates(TEMPLATES)?;
        engine.render(template, &Context::from_serialize(values)?)
    };
    let mut text = fill().map_err(|error| RenderError { template, reason: error.to_string() })?;
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

/// `text` as the lines of a YAML block: each indented by `width` blanks, empty ones left empty.
pub(super) fn indented(text: &str, width: usize) -> String {
    let mut result = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        if !line.is_empty() {
            result.extend(std::iter::repeat_n(' ', width));
            result.push_str(line);
        }
        result.push('\n');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn a_missing_value_is_an_error_that_names_the_template() {
        let error = render("agent", &serde_json::json!({})).unwrap_err().to_string();
        assert!(error.contains("the template agent"), "{error}");
    }
}

//! Query templates: `{{ name }}` and its like, the part of Go's text/template that queries use.

use crate::outbound::Variables;

/// What a query template may name (Flagger's template functions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// `name`: the Canary.
    pub name: String,
    /// `namespace`: its namespace.
    pub namespace: String,
    /// `target`: the name in `targetRef`.
    pub target: String,
    /// `service`: the name in `service.name`, else the target.
    pub service: String,
    /// `ingress`: the name in `ingressRef`, else the target.
    pub ingress: String,
    /// `route`: the name in `routeRef`, else the target.
    pub route: String,
    /// `interval`: the metric's interval; empty when a template's metric states none.
    pub interval: String,
    /// `variables`: the metric's `templateVariables`.
    pub variables: Variables,
}

/// A template that cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// `{{` without `}}`.
    #[error("template parsing failed: template: tmpl: unclosed action: {0}")]
    Unclosed(String),
    /// A name that is no template function.
    #[error("template parsing failed: template: tmpl: function {0:?} not defined")]
    Undefined(String),
    /// A variable that the metric does not give.
    #[error("template excution failed: template: tmpl: map has no entry for key {0:?}")]
    NoVariable(String),
    /// An action beyond names and variables.
    #[error(
        "template parsing failed: template: tmpl: expression {0:?} is not supported, only names and variables.NAME are"
    )]
    Unsupported(String),
}

/// Renders a template. Trim markers (`{{-`, `-}}`), comments, strings and `index variables` work as in
/// Go.
///
/// # Errors
///
/// When an action is not closed, names an unknown function or variable, or is more than a name.
pub fn render(template: &str, model: &Model) -> Result<String, RenderError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, tail) = after.split_once("}}").ok_or_else(|| RenderError::Unclosed(after.to_owned()))?;
        // A trim marker is a dash with white space beside it: {{-3}} is a number.
        let left = action.strip_prefix('-').filter(|a| a.starts_with(char::is_whitespace));
        let inner = left.unwrap_or(action);
        let right = inner.strip_suffix('-').filter(|a| a.ends_with(char::is_whitespace));
        let expression = right.unwrap_or(inner).trim();
        out.push_str(if left.is_some() { before.trim_end() } else { before });
        out.push_str(&value(expression, model)?);
        rest = if right.is_some() { tail.trim_start() } else { tail };
    }
    out.push_str(rest);
    Ok(out)
}

fn value(expression: &str, model: &Model) -> Result<String, RenderError> {
    if expression.starts_with("/*") && expression.ends_with("*/") {
        return Ok(String::new());
    }
    // Text in quotes: how a query has braces of its own, or a variable whose name has a dash.
    if let Some(text) = quoted(expression) {
        return Ok(text);
    }
    if let Some(key) = expression.strip_prefix("index variables ").and_then(|key| quoted(key.trim())) {
        return Ok(model.variables.get(&key).cloned().unwrap_or_default());
    }
    let known = match expression {
        "name" => &model.name,
        "namespace" => &model.namespace,
        "target" => &model.target,
        "service" => &model.service,
        "ingress" => &model.ingress,
        "route" => &model.route,
        "interval" => model.interval.as_str(),
        _ => variable(expression, model)?,
    };
    Ok(known.to_owned())
}

/// A string of Go: in double quotes with the escapes that JSON has too, or as it stands between back quotes.
fn quoted(expression: &str) -> Option<String> {
    let raw = expression.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
    match raw {
        Some(text) => Some(text.to_owned()).filter(|text| !text.contains('`')),
        None => serde_json::from_str::<String>(expression).ok(),
    }
}

fn variable<'a>(expression: &str, model: &'a Model) -> Result<&'a str, RenderError> {
    let is_word = |w: &str| {
        !w.is_empty()
            && w.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !w.starts_with(|c: char| c.is_ascii_digit())
    };
    match expression.strip_prefix("variables.") {
        Some(key) if is_word(key) => model
            .variables
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| RenderError::NoVariable(key.to_owned())),
        None if is_word(expression) && expression != "variables" => {
            Err(RenderError::Undefined(expression.to_owned()))
        }
        _ => Err(RenderError::Unsupported(expression.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            name: "podinfo".into(),
            namespace: "test".into(),
            target: "podinfo".into(),
            interval: "1m".into(),
            variables: Variables::from([("code".to_owned(), "2..".to_owned())]),
            ..Model::default()
        }
    }

    #[test]
    fn names_and_variables_are_replaced() {
        let text = render(
            r#"x{ns="{{ namespace }}",n="{{name}}",c="{{ variables.code }}"}[{{interval}}]"#,
            &model(),
        );
        assert_eq!(text.unwrap(), r#"x{ns="test",n="podinfo",c="2.."}[1m]"#);
    }

    #[test]
    fn trim_markers_take_the_white_space_beside_them() {
        assert_eq!(render("a \n {{- name -}} \n b {{ name }} c", &model()).unwrap(), "apodinfob podinfo c");
        assert_eq!(render("a {{- /* said */ -}} b", &model()).unwrap(), "ab");
    }

    #[test]
    fn braces_of_the_query_itself_stay() {
        assert_eq!(render("sum(x{a=\"b\"})", &model()).unwrap(), "sum(x{a=\"b\"})");
    }

    #[test]
    fn text_in_quotes_stands_for_itself_and_names_any_variable() {
        let model =
            Model { variables: Variables::from([("status-code".to_owned(), "5..".to_owned())]), ..model() };
        let of = |text: &str| render(text, &model).unwrap();
        assert_eq!(of(r#"{{ "{{" }} {{ `a"b` }}"#), r#"{{ a"b"#);
        assert_eq!(
            of(r#"c="{{ index variables "status-code" }}{{ index variables "none" }}""#),
            r#"c="5..""#
        );
    }

    #[test]
    fn what_cannot_be_rendered_is_named() {
        assert_eq!(render("{{ pod }}", &model()), Err(RenderError::Undefined("pod".into())));
        assert_eq!(render("{{ variables.x }}", &model()), Err(RenderError::NoVariable("x".into())));
        assert_eq!(render("{{ name", &model()), Err(RenderError::Unclosed(" name".into())));
        for text in
            ["{{ if name }}", "{{ printf \"%s\" name }}", "{{ .name }}", "{{ variables }}", "{{}}", "{{-3}}"]
        {
            assert!(matches!(render(text, &model()), Err(RenderError::Unsupported(_))), "{text}");
        }
    }
}

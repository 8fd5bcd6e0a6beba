//! How methods are bound to HTTP: what `google.api.http` says, with templates of paths as OpenAPI writes them.

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// The option.
const HTTP: &str = "google.api.http";

/// One way to call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The HTTP method in lower case.
    pub verb: String,
    /// The path, with variables in braces.
    pub path: String,
    /// What stands in the variables, in the order of the path.
    pub variables: Vec<Variable>,
    /// What the body is.
    pub body: Body,
}

/// A part of the path that is a field of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the path: that of the field.
    pub name: String,
    /// The names of the fields that lead to it, its own last.
    pub field: Vec<String>,
    /// It may have slashes.
    pub whole_rest: bool,
}

/// What the body of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none; fields that are not in the path are parameters.
    None,
    /// Everything that is not in the path.
    Rest,
    /// One field; others that are not in the path are parameters.
    Field(String),
}

impl Binding {
    /// What stands behind the colon of a path such as `/v1/agents:drain`; empty when there is none.
    pub fn custom_verb(&self) -> &str {
        let last = self.path.rsplit('/').next().unwrap_or_default();
        last.rsplit_once(':').map_or("", |(_, verb)| verb)
    }
}

/// The ways to call a method, its main one first; none when it has no HTTP.
///
/// # Errors
/// What the option says that cannot be.
pub fn of(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Vec<Binding>, String> {
    let extension = pool
        .get_extension_by_name(HTTP)
        .ok_or_else(|| format!("the option {HTTP} is not known"))?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return Ok(Vec::new());
    }
    let main = options.get_extension(&extension);
    let main = main.as_message().ok_or("the option is no rule")?;
    let further = main.get_field_by_name("additional_bindings");
    let further = further.as_ref().and_then(|value| value.as_list()).unwrap_or_default();
    let rules = [main].into_iter().chain(further.iter().filter_map(Value::as_message));
    rules
        .map(|rule| binding(rule).map_err(|problem| format!("{}: {problem}", method.full_name())))
        .collect()
}

fn binding(rule: &DynamicMessage) -> Result<Binding, String> {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name);
        value
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    let verbs = ["get", "put", "post", "delete", "patch"];
    let verb = verbs.into_iter().find(|verb| rule.has_field_by_name(verb));
    let verb = verb.ok_or("it has none of the methods that HTTP has")?;
    let (path, variables) = template(&text(verb))?;
    let body = match text("body").as_str() {
        "" => Body::None,
        "*" => Body::Rest,
        field => Body::Field(field.to_owned()),
    };
    Ok(Binding {
        verb: verb.to_owned(),
        path,
        variables,
        body,
    })
}

/// The template in OpenAPI's words, and its variables.
fn template(template: &str) -> Result<(String, Vec<Variable>), String> {
    let (mut path, mut variables, mut rest) = (String::new(), Vec::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (inner, behind) = after
            .split_once('}')
            .ok_or_else(|| format!("`{template}` has a brace that nothing closes"))?;
        let (field, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        if !["*", "**"].contains(&pattern) {
            return Err(format!(
                "`{template}`: the pattern `{pattern}` cannot be described, take * or **"
            ));
        }
        let field: Vec<String> = field.split('.').map(str::to_owned).collect();
        let name = field.last().cloned().unwrap_or_default();
        if variables.iter().any(|variable: &Variable| variable.name == name) {
            return Err(format!("`{template}` has two variables that end with `{name}`"));
        }
        path.push_str(&format!("{before}{{{name}}}"));
        variables.push(Variable {
            name,
            field,
            whole_rest: pattern == "**",
        });
        rest = behind;
    }
    Ok((path + rest, variables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read() {
        let (path, variables) = template("/v1/pools/{agents.pool}:resize").unwrap();
        assert_eq!(path, "/v1/pools/{pool}:resize");
        assert_eq!(
            (variables[0].field.join("."), variables[0].whole_rest),
            ("agents.pool".to_owned(), false)
        );
        let (path, variables) = template("/v1/pins/{project=**}").unwrap();
        assert_eq!((path.as_str(), variables[0].whole_rest), ("/v1/pins/{project}", true));
        assert_eq!(template("/v1/pins").unwrap(), ("/v1/pins".to_owned(), Vec::new()));
        for wrong in ["/v1/{a", "/v1/{a=b/*}", "/v1/{x.a}/{y.a}"] {
            assert!(template(wrong).is_err(), "{wrong}");
        }
    }
}

//! Headers that every answer has, Envoy's own included, unless the agent says something else in them.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::listener::http_filter;
use crate::config::Front;

/// The filter; none where no header is to be added. It must be the first, so that it is the last to see an answer.
pub fn filter(front: &Front) -> Option<HttpFilter> {
    let headers = front.response_headers.iter().filter(|(_, value)| !value.is_empty());
    let add = |(name, value): (&String, &String)| Mutation {
        action: Some(header_mutation::Action::Append(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_lowercase(),
                value: value.replace('%', "%%"),
                ..Default::default()
            }),
            append_action: header_value_option::HeaderAppendAction::AddIfAbsent as i32,
            ..Default::default()
        })),
    };
    let mutations = Mutations {
        response_mutations: headers.map(add).collect(),
        ..Default::default()
    };
    let filter = HeaderMutation {
        mutations: Some(mutations),
        ..Default::default()
    };
    let any = filter
        .mutations
        .as_ref()
        .is_some_and(|m| !m.response_mutations.is_empty());
    any.then(|| http_filter("envoy.filters.http.header_mutation", &filter))
}

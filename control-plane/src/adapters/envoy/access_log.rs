//! One line of JSON for each request, to a file or to Envoy's standard output.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
use prost::{Message, Name};

/// The fields of a line, with what Envoy puts in them. No query stands in any: what may be shown of it is chosen by
/// `project_key.lua`.
const FIELDS: [(&str, &str); 28] = [
    ("time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("host", "%REQ(:AUTHORITY)%"),
    ("path", "%PATH(NQ:ORIG_OR_PATH)%"),
    ("query", "%DYNAMIC_METADATA(graticule:query)%"),
    ("protocol", "%PROTOCOL%"),
    ("tls", "%DOWNSTREAM_TLS_VERSION%"),
    ("status", "%RESPONSE_CODE%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("received_bytes", "%BYTES_RECEIVED%"),
    ("sent_bytes", "%BYTES_SENT%"),
    ("duration_ms", "%DURATION%"),
    ("request_ms", "%REQUEST_DURATION%"),
    ("first_byte_ms", "%RESPONSE_DURATION%"),
    ("answer_ms", "%RESPONSE_TX_DURATION%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("project", "%DYNAMIC_METADATA(graticule:project)%"),
    ("service", "%DYNAMIC_METADATA(graticule:service)%"),
    ("request", "%DYNAMIC_METADATA(graticule:request)%"),
    ("route", "%ROUTE_NAME%"),
    ("agent", "%RESP(X-GRATICULE-AGENT)%"),
    ("agent_address", "%UPSTREAM_HOST%"),
    ("cache", "%RESP(X-GRATICULE-CACHE)%"),
    ("encoding", "%RESP(CONTENT-ENCODING)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
];

/// The loggers for `front.access_log`: none, standard output, or a file.
pub fn loggers(target: &str) -> Vec<AccessLog> {
    let (name, config) = match target {
        "" => return Vec::new(),
        "stdout" => {
            let log = |format| StdoutAccessLog {
                access_log_format: Some(stdout_access_log::AccessLogFormat::LogFormat(format)),
            };
            ("envoy.access_loggers.stdout", merged(log))
        }
        path => {
            let path = path.to_owned();
            let log = |format| FileAccessLog {
                path: path.clone(),
                access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
            };
            ("envoy.access_loggers.file", merged(log))
        }
    };
    vec![AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    }]
}

/// The logger with every field. The fields are a map, whose entries would be encoded in an order left to chance, and
/// then the listener's version would change with every start. But Protobuf merges encoded messages that are put end to
/// end, so each field is encoded by itself, in our order.
fn merged<M: Message + Name>(log: impl Fn(SubstitutionFormatString) -> M) -> Any {
    let one = |(name, format): &(&str, &str)| {
        let value = Value {
            kind: Some(value::Kind::StringValue((*format).to_owned())),
        };
        let fields = Struct {
            fields: [((*name).to_owned(), value)].into(),
        };
        let format = substitution_format_string::Format::JsonFormat(fields);
        log(SubstitutionFormatString {
            format: Some(format),
            ..Default::default()
        })
        .encode_to_vec()
    };
    Any {
        type_url: M::type_url(),
        value: FIELDS.iter().flat_map(one).collect(),
    }
}

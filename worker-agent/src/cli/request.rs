//! `request ows|api`: a request of a client's, over gRPC. The body goes to standard output or a file as it comes, status
//! and headers to standard error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use graticule_cli::{Failure, exit};
use graticule_proto::v1::qgis_server_client::QgisServerClient;
use graticule_proto::v1::response_chunk::Part;
use graticule_proto::v1::{ApiRequest, OwsRequest, ResponseChunk, ResponseHead};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tonic::Streaming;

use super::ask::{run, said};
use super::target::Target;

/// What stands in a query as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b',');

#[derive(Debug, Subcommand)]
pub(super) enum RequestCommand {
    /// Ask for a map, a feature or a description: WMS, WFS, WCS, WMTS
    #[command(after_help = "\
Example: worker-agent request ows /world --param SERVICE=WMS --param REQUEST=GetCapabilities -o world.xml")]
    Ows {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Ask an OGC API
    #[command(after_help = "Example: worker-agent request api /world /wfs3/collections --param limit=10 --headers")]
    Api {
        /// The project as clients name it
        project: String,
        /// The path below the project
        path: String,
        #[command(flatten)]
        asked: Asked,
    },
}

/// What a request may have.
#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// A parameter, as it is read by people; may be repeated
    #[arg(short, long = "param", value_name = "KEY=VALUE")]
    params: Vec<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    with_headers: Vec<String>,
    /// Send this file as the body, with POST
    #[arg(long, value_name = "FILE", requires = "content_type")]
    body: Option<PathBuf>,
    /// The body's media type
    #[arg(long, value_name = "TYPE", requires = "body")]
    content_type: Option<String>,
    /// The URL that links in the answer start with
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    url: String,
    /// Wait no longer than this, in seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Write the body into this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show status and headers as well, on standard error
    #[arg(short = 'i', long)]
    headers: bool,
    #[command(flatten)]
    target: Target,
}

impl RequestCommand {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Ows { project, asked } => run(ows(project, asked)),
            Self::Api { project, path, asked } => run(api(project, path, asked)),
        }
    }
}

async fn ows(project: String, asked: Asked) -> anyhow::Result<u8> {
    let message = OwsRequest {
        project,
        query: query(&asked.params)?,
        method: asked.method(),
        content_type: asked.content_type.clone().unwrap_or_default(),
        body: asked.read_body()?,
        public_url: asked.url.clone(),
        headers: headers(&asked.with_headers)?,
        request_id: String::new(),
    };
    let mut client = asked.client().await?;
    let answer = client.execute_ows_request(asked.bounded(message)?).await;
    asked
        .receive(answer.map_err(|status| said(&status))?.into_inner())
        .await
}

async fn api(project: String, path: String, asked: Asked) -> anyhow::Result<u8> {
    let query = query(&asked.params)?;
    let joint = if path.contains('?') { '&' } else { '?' };
    let message = ApiRequest {
        project,
        path: if query.is_empty() {
            path
        } else {
            format!("{path}{joint}{query}")
        },
        method: asked.method(),
        content_type: asked.content_type.clone().unwrap_or_default(),
        body: asked.read_body()?,
        public_url: asked.url.clone(),
        headers: headers(&asked.with_headers)?,
        request_id: String::new(),
    };
    let mut client = asked.client().await?;
    let answer = client.execute_api_request(asked.bounded(message)?).await;
    asked
        .receive(answer.map_err(|status| said(&status))?.into_inner())
        .await
}

impl Asked {
    fn method(&self) -> String {
        if self.body.is_some() { "POST" } else { "GET" }.to_owned()
    }

    fn read_body(&self) -> Result<Vec<u8>, Failure> {
        let Some(file) = &self.body else { return Ok(Vec::new()) };
        std::fs::read(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
    }

    async fn client(&self) -> Result<QgisServerClient<graticule_cli::Wire>, Failure> {
        if self.target.json && self.output.is_none() {
            return Err(Failure::Usage(
                "--json shows status and headers: say with --output where the body goes".into(),
            ));
        }
        let agents = self.target.agents().await?;
        Ok(QgisServerClient::new(agents.only("a request")?.own().await?))
    }

    fn bounded<T>(&self, message: T) -> Result<tonic::Request<T>, Failure> {
        let mut request = tonic::Request::new(message);
        if let Some(seconds) = self.timeout {
            let bound = Duration::try_from_secs_f64(seconds)
                .map_err(|_| Failure::Usage(format!("--timeout {seconds}: expected seconds")))?;
            request.set_timeout(bound);
        }
        Ok(request)
    }

    /// Takes the answer; gives the exit code.
    async fn receive(&self, mut chunks: Streaming<ResponseChunk>) -> anyhow::Result<u8> {
        let first = chunks.message().await.map_err(|status| said(&status))?;
        let Some(Part::Head(head)) = first.and_then(|chunk| chunk.part) else {
            anyhow::bail!("the answer has no head");
        };
        if self.headers && !self.target.json {
            graticule_cli::complain(&head_text(&head));
        }
        let (mut bytes, mut to) = (0_usize, self.destination()?);
        while let Some(chunk) = chunks.message().await.map_err(|status| self.cut(said(&status)))? {
            let Some(Part::Body(piece)) = chunk.part else { continue };
            if bytes == 0 && self.unfit(&piece) {
                return Err(Failure::Usage("the answer is no text: say with --output where it goes".into()).into());
            }
            bytes += piece.len();
            if let Err(error) = to.write_all(&piece) {
                // Whoever read it has what was wanted.
                if self.output.is_none() && error.kind() == std::io::ErrorKind::BrokenPipe {
                    return Ok(exit::DONE);
                }
                return Err(self.cut(error.into()));
            }
        }
        to.flush().map_err(|error| self.cut(error.into()))?;
        if self.target.json {
            graticule_cli::say(&format!("{:#}\n", self.as_json(&head, bytes)));
        }
        if head.status < 400 {
            return Ok(exit::DONE);
        }
        super::complain(&format!("the answer's status is {}", head.status));
        Ok(exit::REFUSED)
    }

    fn destination(&self) -> anyhow::Result<Box<dyn Write>> {
        Ok(match &self.output {
            Some(file) => Box::new(File::create(file).with_context(|| file.display().to_string())?),
            None => Box::new(std::io::stdout()),
        })
    }

    /// A picture is nothing for a terminal.
    fn unfit(&self, piece: &[u8]) -> bool {
        self.output.is_none() && piece.contains(&0) && std::io::stdout().is_terminal()
    }

    /// An error after which the file is not whole.
    fn cut(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.output {
            Some(file) => error.context(format!("{} is not whole", file.display())),
            None => error,
        }
    }

    fn as_json(&self, head: &ResponseHead, bytes: usize) -> serde_json::Value {
        let headers = head.headers.iter().map(|header| json!([header.name, header.value]));
        let file = self.output.as_ref().map(|file| file.display().to_string());
        json!({"status": head.status, "headers": headers.collect::<Vec<_>>(), "bytes": bytes, "file": file})
    }
}

fn head_text(head: &ResponseHead) -> String {
    let headers = head
        .headers
        .iter()
        .map(|header| format!("\n{}: {}", header.name, header.value));
    format!("{}{}\n", head.status, headers.collect::<String>())
}

/// Parameters as a query has them.
fn query(params: &[String]) -> Result<String, Failure> {
    let encode = |text| utf8_percent_encode(text, QUERY);
    let pairs = params.iter().map(|param| {
        let (key, value) = param
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--param `{param}`: expected KEY=VALUE, such as SERVICE=WMS")))?;
        Ok(format!("{}={}", encode(key), encode(value)))
    });
    Ok(pairs.collect::<Result<Vec<_>, Failure>>()?.join("&"))
}

fn headers(words: &[String]) -> Result<HashMap<String, String>, Failure> {
    let pair = |word: &String| {
        let (name, value) = word.split_once(':').ok_or_else(|| {
            Failure::Usage(format!(
                "--header `{word}`: expected NAME:VALUE, such as Accept:text/html"
            ))
        })?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    words.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::Header;

    use super::*;

    #[test]
    fn parameters_are_encoded() {
        let params = ["BBOX=1,-2.5".to_owned(), "FILTER=a = 'ü&'".to_owned()];
        assert_eq!(query(&params).unwrap(), "BBOX=1,-2.5&FILTER=a%20%3D%20%27%C3%BC%26%27");
        assert!(
            query(&["SERVICE".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("expected KEY=VALUE")
        );
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let read = headers(&["Accept: text/html".to_owned(), "X-A:b:c".to_owned()]).unwrap();
        assert_eq!((read["Accept"].as_str(), read["X-A"].as_str()), ("text/html", "b:c"));
        assert!(headers(&["Accept".to_owned()]).is_err());
    }

    #[test]
    fn a_head_reads_as_http_writes_it() {
        let header = Header {
            name: "content-type".into(),
            value: "text/xml".into(),
        };
        let head = ResponseHead {
            status: 200,
            headers: vec![header],
        };
        assert_eq!(head_text(&head), "200\ncontent-type: text/xml\n");
    }
}

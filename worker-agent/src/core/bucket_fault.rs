//! What an S3 server's error means to an operator.
//!
//! Error texts of libraries and servers hold URLs, keys and signatures. So nothing of them is passed on but S3's own error
//! code; the words are ours.

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Connect,
    /// There was no answer in time, or it broke off.
    Silence,
    /// The server refused, or the answer makes no sense.
    Answer,
}

/// What to tell, and what to change. `text` is all that the library said; `server` is the endpoint, which holds no secret.
#[must_use]
pub fn explain(failure: Failure, text: &str, bucket: &str, server: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if let Some(code) = element(text, "Code") {
        return by_code(code, text, bucket, server);
    }
    let credentials = "has no credentials: set access_key_id and secret_access_key in [worker.storage.s3], or AWS_ACCESS_KEY_ID and \
                       AWS_SECRET_ACCESS_KEY, or anonymous = true for a public bucket";
    if has(&[
        "169.254.",
        "instance metadata",
        "instancecredential",
        "latest/api/token",
        "missing access key",
    ]) {
        return format!("bucket '{bucket}' {credentials}");
    }
    if has(&[
        "certificate",
        "unknownissuer",
        "invalidcontenttype",
        "corrupt message",
        "tls",
    ]) {
        return format!(
            "{server} has no certificate that this machine trusts: add its authority to the system's certificates, or correct the endpoint"
        );
    }
    match failure {
        Failure::Connect if has(&["dns", "lookup", "resolve"]) => {
            format!("the name of {server} cannot be resolved: correct the endpoint or the name service")
        }
        Failure::Connect => format!("{server} cannot be reached: see that it runs, and that the endpoint is right"),
        Failure::Silence => format!("{server} does not answer: see that it runs and is not overloaded"),
        Failure::Answer if has(&["redirect", "301 moved"]) => wrong_region(text, bucket),
        Failure::Answer if has(&["401", "403", "forbidden", "unauthorized"]) => denied(bucket),
        Failure::Answer if has(&[" 50", "503 ", "500 "]) => {
            format!("{server} has trouble of its own; it is asked again")
        }
        Failure::Answer => format!("{server} answers as no S3 server does: correct the endpoint"),
    }
}

fn by_code(code: &str, text: &str, bucket: &str, server: &str) -> String {
    match code {
        "NoSuchBucket" => format!("there is no bucket '{bucket}' at {server}: create it, or correct the search path"),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => denied(bucket),
        "InvalidAccessKeyId" => {
            format!(
                "{server} does not know the access key of bucket '{bucket}': correct worker.storage.s3 or AWS_ACCESS_KEY_ID"
            )
        }
        "SignatureDoesNotMatch" => {
            format!(
                "the secret of bucket '{bucket}' does not fit its access key: correct worker.storage.s3 or AWS_SECRET_ACCESS_KEY"
            )
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            format!("the session token of bucket '{bucket}' has expired: renew it, or use lasting credentials")
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => wrong_region(text, bucket),
        "RequestTimeTooSkewed" => format!("the clocks of this machine and of {server} differ: set the time"),
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "Busy" => {
            format!("{server} has trouble of its own ({code}); it is asked again")
        }
        other => format!("{server} refuses: {other}"),
    }
}

fn denied(bucket: &str) -> String {
    format!("access to bucket '{bucket}' is denied: allow the key s3:GetObject and s3:ListBucket on it")
}

fn wrong_region(text: &str, bucket: &str) -> String {
    let expected = element(text, "Region")
        .map(|region| format!(" ('{region}')"))
        .unwrap_or_default();
    format!("bucket '{bucket}' is in another region: set `region` in [worker.storage.s3]{expected}")
}

/// The content of an element when it is a plain word.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = after.split_once(&format!("</{name}>"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!content.is_empty() && content.len() < 64 && content.bytes().all(plain)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_says_what_to_change() {
        let coded = |code: &str| format!("403 Forbidden: <Error><Code>{code}</Code><Message>s3cret</Message></Error>");
        for (failure, text, expected) in [
            (
                Failure::Answer,
                coded("NoSuchBucket"),
                "there is no bucket 'maps' at https://s3: create it",
            ),
            (
                Failure::Answer,
                coded("AccessDenied"),
                "allow the key s3:GetObject and s3:ListBucket",
            ),
            (
                Failure::Answer,
                coded("InvalidAccessKeyId"),
                "does not know the access key",
            ),
            (
                Failure::Answer,
                coded("SignatureDoesNotMatch"),
                "secret of bucket 'maps' does not fit",
            ),
            (Failure::Answer, coded("ExpiredToken"), "renew it"),
            (Failure::Answer, coded("RequestTimeTooSkewed"), "set the time"),
            (Failure::Answer, coded("SlowDown"), "(SlowDown)"),
            (
                Failure::Answer,
                coded("SomethingNew"),
                "https://s3 refuses: SomethingNew",
            ),
            (
                Failure::Answer,
                format!("{}<Region>eu-west-1</Region>", coded("AuthorizationHeaderMalformed")),
                "set `region` in [worker.storage.s3] ('eu-west-1')",
            ),
            (
                Failure::Answer,
                "Received redirect without LOCATION, this normally indicates an incorrectly configured region".into(),
                "is in another region",
            ),
            (
                Failure::Answer,
                "Server returned error 403 Forbidden: ".into(),
                "is denied",
            ),
            (
                Failure::Answer,
                "Server returned non-2xx status code: 502 Bad Gateway: s3cret".into(),
                "trouble of its own",
            ),
            (
                Failure::Answer,
                "<html>s3cret</html>".into(),
                "answers as no S3 server does",
            ),
            (
                Failure::Answer,
                coded("s3cret key").replace("403 Forbidden", ""),
                "answers as no S3 server does",
            ),
            (
                Failure::Connect,
                "tcp connect error: Connection refused (os error 111)".into(),
                "cannot be reached",
            ),
            (
                Failure::Connect,
                "dns error: failed to lookup address information".into(),
                "cannot be resolved",
            ),
            (
                Failure::Connect,
                "invalid peer certificate: UnknownIssuer".into(),
                "no certificate that this machine trusts",
            ),
            (Failure::Silence, "operation timed out".into(), "does not answer"),
            (
                Failure::Connect,
                "http://169.254.169.254/latest/api/token: s3cret".into(),
                "has no credentials",
            ),
        ] {
            let told = explain(failure, &text, "maps", "https://s3");
            assert!(told.contains(expected), "{text}: {told}");
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}

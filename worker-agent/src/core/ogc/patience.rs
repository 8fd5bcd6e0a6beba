//! How long a client says that it will wait: `X-Request-Timeout`, and `grpc-timeout` as gRPC clients send it.
//!
//! It knows nothing of what the operator allows; [`class`](super::class) takes the shorter of the two.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::exception::Refusal;

/// Seconds as a decimal number.
const SECONDS: &str = "x-request-timeout";

/// gRPC's own: up to eight digits and a unit.
const GRPC: &str = "grpc-timeout";

/// How much of a value that cannot be read is shown, in characters.
const SHOWN: usize = 40;

/// The shortest time that the client names, or none.
///
/// # Errors
/// When a value cannot be read, or is nothing; the text says what is expected.
pub(super) fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let seconds = shortest(
        headers,
        SECONDS,
        seconds,
        "expected seconds, a decimal number above 0 such as 2.5",
    )?;
    let grpc = shortest(
        headers,
        GRPC,
        grpc,
        "expected one to eight digits, not all 0, and a unit (H, M, S, m, u or n), such as 2500m",
    )?;
    Ok(seconds.into_iter().chain(grpc).min())
}

fn shortest(
    headers: &HeaderMap,
    name: &str,
    read: fn(&str) -> Option<Duration>,
    expected: &str,
) -> Result<Option<Duration>, Refusal> {
    let mut shortest = None;
    for value in headers.get_all(name) {
        let text = value.to_str().map(str::trim).ok();
        let duration = text
            .and_then(read)
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| Refusal::Malformed(format!("the header {name} is '{}'; {expected}", shown(value))))?;
        shortest = shortest.into_iter().chain([duration]).min();
    }
    Ok(shortest)
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(SHOWN).collect()
}

/// Digits with at most one point: no sign, no exponent, no `inf`.
fn seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = text.parse().ok().filter(|_| plain)?;
    Some(Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol.
fn grpc(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(pairs: &[(&'static str, &str)]) -> Result<Option<Duration>, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        patience(&headers)
    }

    #[test]
    fn both_headers_are_read_and_the_shorter_counts() {
        let millis = |millis| Ok(Some(Duration::from_millis(millis)));
        assert_eq!(said(&[]), Ok(None));
        for (text, expected) in [("2.5", 2500), ("20", 20_000), (".5", 500), ("3.", 3000), (" 1 ", 1000)] {
            assert_eq!(said(&[(SECONDS, text)]), millis(expected), "{text}");
        }
        for (text, expected) in [
            ("1H", 3_600_000),
            ("99999999H", 359_999_996_400_000),
            ("2M", 120_000),
            ("3S", 3000),
            ("2500m", 2500),
            ("2500000u", 2500),
            ("00000001S", 1000),
        ] {
            assert_eq!(said(&[(GRPC, text)]), millis(expected), "{text}");
        }
        assert_eq!(said(&[(GRPC, "7n")]), Ok(Some(Duration::from_nanos(7))));
        assert_eq!(said(&[(SECONDS, "4"), (GRPC, "3S")]), millis(3000));
        assert_eq!(said(&[(SECONDS, "2"), (GRPC, "3S")]), millis(2000));
        assert_eq!(said(&[(SECONDS, "4"), (SECONDS, "2")]), millis(2000));
        assert_eq!(said(&[(SECONDS, &"9".repeat(400))]), Ok(Some(Duration::MAX)));
    }

    #[test]
    fn what_cannot_be_read_is_told_what_is_expected() {
        for text in [
            "",
            "soon",
            "0",
            "0.0",
            "-1",
            "+1",
            "1e3",
            "inf",
            "nan",
            "1,5",
            "1.5.2",
            ".",
            "10s",
            "1 2",
            "é",
            "0.0000000000001",
        ] {
            let Err(refusal) = said(&[(SECONDS, text)]) else {
                panic!("{text} was read")
            };
            assert_eq!((refusal.status().as_u16(), refusal.code()), (400, "InvalidRequest"));
            assert!(
                refusal.to_string().contains("x-request-timeout is '")
                    && refusal.to_string().contains("above 0 such as 2.5"),
                "{refusal}"
            );
        }
        for text in [
            "",
            "S",
            "5",
            "0S",
            "1s",
            "1SS",
            "123456789S",
            "-1S",
            "1.5S",
            "1 S",
            "5é",
            "é5S",
        ] {
            let Err(refusal) = said(&[(GRPC, text)]) else {
                panic!("{text} was read")
            };
            assert!(refusal.to_string().contains("grpc-timeout is '"), "{refusal}");
        }
        // One that can be read does not excuse the other.
        assert!(said(&[(SECONDS, "1"), (SECONDS, "x")]).is_err());
        assert!(said(&[(SECONDS, "1"), (GRPC, "x")]).is_err());
        let long = said(&[(SECONDS, &"x".repeat(5000))]).unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(seconds in "[ -~é]{0,12}", grpc in "[ -~é]{0,12}") {
            if let Ok(Some(duration)) = said(&[(SECONDS, &seconds), (GRPC, &grpc)]) {
                prop_assert!(duration > Duration::ZERO);
            }
        }

        #[test]
        fn whole_seconds_mean_the_same_in_both(seconds in 1_u32..=99_999_999) {
            prop_assert_eq!(said(&[(SECONDS, &seconds.to_string())]), said(&[(GRPC, &format!("{seconds}S"))]));
        }
    }
}

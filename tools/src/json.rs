//! Messages as JSON objects, one a line.

use std::str;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use spread::{Cause, Data, GroupName, Message};

use crate::cli::ServiceName;

/// What `sprecv --json` writes.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line<'a> {
    /// Data of a client.
    Data {
        /// Private group of the sender.
        sender: String,
        /// Where it was sent to.
        groups: Vec<String>,
        /// `agreed` and so on.
        service: String,
        /// The number the sender chose.
        #[serde(rename = "type")]
        message_type: i16,
        /// The data.
        #[serde(flatten)]
        body: Body<'a>,
    },
    /// A new view of a group.
    Membership {
        /// The group.
        group: String,
        /// `join`, `leave`, `disconnect` or `network`.
        cause: &'static str,
        /// Who joined, left or disconnected.
        #[serde(skip_serializing_if = "Option::is_none")]
        member: Option<String>,
        /// Who is in it now, in the same order for all.
        members: Vec<String>,
    },
    /// The guarantees of the view are reduced.
    Transition {
        /// The group.
        group: String,
    },
    /// This session has left a group.
    Left {
        /// The group.
        group: String,
    },
    /// The daemon refused a request.
    Rejected {
        /// What it was to go to.
        groups: Vec<String>,
        /// The data.
        #[serde(flatten)]
        body: Body<'a>,
    },
    /// The daemon was lost and found: messages are missing here.
    Reconnected {
        /// How long there was no daemon, in milliseconds.
        downtime_ms: u64,
        /// Groups that were joined again.
        rejoined: Vec<String>,
    },
}

/// Data: as text if it is text.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Body<'a> {
    /// UTF-8.
    Text {
        /// The text.
        data: &'a str,
    },
    /// Anything else.
    Bytes {
        /// The bytes in base 64, with padding.
        data_base64: String,
    },
}

impl<'a> Body<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(data) => Self::Text { data },
            Err(_) => Self::Bytes { data_base64: STANDARD.encode(bytes) },
        }
    }
}

impl<'a> Line<'a> {
    /// Makes the object for a message; `None` for a kind this version does not know.
    pub fn new(message: &'a Message) -> Option<Self> {
        let texts = |names: &[GroupName]| names.iter().map(ToString::to_string).collect();
        Some(match message {
            Message::Data(data) => Self::of_data(data),
            Message::Membership(view) => Self::Membership {
                group: view.group.to_string(),
                cause: match view.cause {
                    Cause::Join(_) => "join",
                    Cause::Leave(_) => "leave",
                    Cause::Disconnect(_) => "disconnect",
                    Cause::Network => "network",
                },
                member: view.cause.member().map(|member| member.to_string()),
                members: texts(&view.members),
            },
            Message::Transition { group, .. } => Self::Transition { group: group.to_string() },
            Message::SelfLeave { group } => Self::Left { group: group.to_string() },
            Message::Reject(rejected) => Self::Rejected {
                groups: rejected.groups().map(|group| group.to_string()).collect(),
                body: Body::new(rejected.payload()),
            },
            Message::Reconnected(gap) => Self::Reconnected {
                downtime_ms: u64::try_from(gap.downtime.as_millis()).unwrap_or(u64::MAX),
                rejoined: texts(&gap.rejoined),
            },
            _ => return None,
        })
    }

    fn of_data(data: &'a Data) -> Self {
        Self::Data {
            sender: data.sender().to_string(),
            groups: data.groups().map(|group| group.to_string()).collect(),
            service: data.service().kind().to_string().to_ascii_lowercase(),
            message_type: data.message_type(),
            body: Body::new(data.payload()),
        }
    }
}

/// What `spsend --json` reads. Fields it does not know are passed over.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Other kinds than `data` are not sent.
    kind: Option<String>,
    /// Where it goes.
    #[serde(default)]
    pub groups: Vec<String>,
    /// `agreed` and so on.
    service: Option<String>,
    /// A number for the receivers.
    #[serde(rename = "type")]
    pub message_type: Option<i16>,
    data: Option<String>,
    data_base64: Option<String>,
}

impl Request {
    /// Reads an object; `None` if it is not about data.
    ///
    /// # Errors
    /// If it is none, or its fields do not fit.
    pub fn parse(line: &[u8]) -> anyhow::Result<Option<Self>> {
        let request: Self = serde_json::from_slice(line)?;
        Ok(Some(request).filter(|request| request.kind.as_deref().is_none_or(|kind| kind == "data")))
    }

    /// Gives the service, if it has one.
    ///
    /// # Errors
    /// If there is no such service.
    pub fn service(&self) -> anyhow::Result<Option<ServiceName>> {
        let parse = |text: &String| {
            <ServiceName as clap::ValueEnum>::from_str(text, true)
                .map_err(|_| anyhow::anyhow!("there is no service {text:?}"))
        };
        self.service.as_ref().map(parse).transpose()
    }

    /// Gives the data.
    ///
    /// # Errors
    /// If it has none, or twice, or its base 64 is wrong.
    pub fn data(&self) -> anyhow::Result<Vec<u8>> {
        match (&self.data, &self.data_base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => STANDARD.decode(text).context("\"data_base64\""),
            _ => bail!("either \"data\" or \"data_base64\" is needed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let request = Request::parse(br#"{"data":"a\nb","type":-3,"service":"safe","groups":["g"],"x":1}"#);
        let request = request.unwrap().unwrap();
        assert_eq!(request.data().unwrap(), b"a\nb");
        assert_eq!((request.message_type, request.groups.as_slice()), (Some(-3), &["g".to_owned()][..]));
        assert_eq!(request.service().unwrap(), Some(ServiceName::Safe));
        let bytes = Request::parse(br#"{"kind":"data","data_base64":"/wA="}"#).unwrap().unwrap();
        assert_eq!(bytes.data().unwrap(), [255, 0]);
        assert!(Request::parse(br#"{"kind":"membership","group":"g"}"#).unwrap().is_none());
    }

    #[test]
    fn wrong_requests_are_refused() {
        assert!(Request::parse(b"hello").is_err());
        assert!(Request::parse(br#"{"data":"x","type":40000}"#).is_err());
        let of = |text: &str| Request::parse(text.as_bytes()).unwrap().unwrap();
        assert!(of("{}").data().is_err());
        assert!(of(r#"{"data":"x","data_base64":"eA=="}"#).data().is_err());
        assert!(of(r#"{"data_base64":"?"}"#).data().is_err());
        assert!(of(r#"{"data":"x","service":"fast"}"#).service().is_err());
    }

    #[test]
    fn bodies_are_text_if_they_can_be() {
        let json = |bytes| serde_json::to_string(&Body::new(bytes)).unwrap();
        assert_eq!(json(b"a\"b"), r#"{"data":"a\"b"}"#);
        assert_eq!(json(b"\xff\x00"), r#"{"data_base64":"/wA="}"#);
    }
}

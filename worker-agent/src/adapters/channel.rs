//! Frames over a Unix socket: the agent's end of a worker's or zygote's channel.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::core::frame::{Decoder, Frame, FrameError, Kind, encode};

/// A channel that is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end has gone.
    #[error("the process closed its channel")]
    Closed,
    /// The socket failed.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// The other end does not speak the protocol.
    #[error("protocol: {0}")]
    Frame(#[from] FrameError),
    /// The other end says what cannot be understood.
    #[error("protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// A message that does not belong here.
    #[error("protocol: unexpected {0}")]
    Unexpected(&'static str),
}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    decoder: Decoder,
}

impl Channel {
    /// Makes a channel and the end that goes to the other process.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((
            Self {
                socket: UnixStream::from_std(ours)?,
                decoder: Decoder::default(),
            },
            theirs.into(),
        ))
    }

    /// Waits for the next frame. May be dropped at any time without losing bytes.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] at the end of the socket, also in the middle of a frame.
    pub async fn read(&mut self) -> Result<Frame, ChannelError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            if self.socket.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
    }

    /// Waits for a frame of `kind` and reads its JSON.
    ///
    /// # Errors
    /// As [`Channel::read`], and when another kind comes.
    pub async fn read_json<T: DeserializeOwned>(&mut self, kind: Kind) -> Result<T, ChannelError> {
        let frame = self.read().await?;
        if frame.kind != kind {
            return Err(ChannelError::Unexpected("kind of frame"));
        }
        Ok(serde_json::from_slice(&frame.payload)?)
    }

    /// Sends a message as one frame.
    ///
    /// # Errors
    /// When the other end has gone.
    pub async fn send<T: Serialize>(&mut self, kind: Kind, message: &T) -> Result<(), ChannelError> {
        let payload = serde_json::to_vec(message)?;
        Ok(self.socket.write_all(&encode(kind, &payload)).await?)
    }

    /// Sends a piece of a body.
    ///
    /// # Errors
    /// When the other end has gone.
    pub async fn send_body(&mut self, piece: &[u8]) -> Result<(), ChannelError> {
        Ok(self.socket.write_all(&encode(Kind::Body, piece)).await?)
    }

    /// Sends a message together with descriptors (`SCM_RIGHTS`).
    ///
    /// # Errors
    /// When the other end has gone.
    pub async fn send_with<T: Serialize>(&mut self, message: &T, fds: &[OwnedFd]) -> Result<(), ChannelError> {
        let frame = encode(Kind::Head, &serde_json::to_vec(message)?);
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        loop {
            self.socket.writable().await?;
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                let parts = [io::IoSlice::new(&frame)];
                let rights = [ControlMessage::ScmRights(&raw)];
                let socket = self.socket.as_fd().as_raw_fd();
                Ok(sendmsg::<UnixAddr>(
                    socket,
                    &parts,
                    &rights,
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                )?)
            });
            match sent {
                Ok(count) => return Ok(self.socket.write_all(&frame[count..]).await?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

//! Lets clients in whose `:authority` is no authority.
//!
//! gRPC over a Unix socket has no host name to send. `grpc` core (C++, Python, Ruby) sends the
//! percent-encoded path of the socket, gRPC for Java the bare path; RFC 3986 allows neither, and `h2`
//! answers both with PROTOCOL_ERROR. [`LegalAuthority`] sits between the socket and `h2` and makes the
//! value legal while it is read. It looks at frame headers and at header blocks only; all other bytes go
//! straight from the socket into the buffer of the reader. Header blocks are rewritten where they lie
//! (see [`super::hpack`] for why no length changes); only one that a read has cut short is copied.

use super::hpack::Walker;
use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an HTTP/2 client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A longer header block is beyond what the server takes anyway: it passes unchanged.
const LONGEST_BLOCK: usize = 64 * 1024;
/// Bytes asked for at a time while a cut header block is completed.
const REST_OF_BLOCK: usize = 4096;

/// A connection whose reader only ever sees legal authorities.
#[derive(Debug)]
pub(super) struct LegalAuthority<T> {
    io: T,
    scanner: Scanner,
    /// Bytes that were read but not handed on.
    held: BytesMut,
    /// How many of them may be handed on. The rest begins at a frame's header.
    ready: usize,
    /// Whether something has been written; see [`LegalAuthority::is_write_vectored`].
    written: bool,
}

impl<T> LegalAuthority<T> {
    /// Wraps a connection of which `start` has been read already.
    pub(super) fn new(io: T, start: &[u8]) -> Self {
        let mut held = BytesMut::from(start);
        let mut scanner = Scanner::new();
        let ready = scanner.scan(&mut held);
        Self { io, scanner, held, ready, written: false }
    }

    /// Wraps a connection that does not speak HTTP/2: only gives `start` back to its reader.
    pub(super) fn transparent(io: T, start: &[u8]) -> Self {
        let scanner = Scanner { transparent: true, ..Scanner::new() };
        Self { io, scanner, held: BytesMut::from(start), ready: start.len(), written: true }
    }
}

impl<T: AsyncRead + Unpin> LegalAuthority<T> {
    /// Reads straight into the reader's buffer. False: nothing of it may be handed on yet.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let new = &mut buf.filled_mut()[before..];
        let read = new.len();
        let ready = self.scanner.scan(new);
        if ready < read {
            self.held.extend_from_slice(&new[ready..]);
            buf.set_filled(before + ready);
        }
        Poll::Ready(Ok(ready > 0 || read == 0))
    }

    /// Reads more of a header block that was cut short.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; REST_OF_BLOCK];
        let mut more = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut more))?;
        if more.filled().is_empty() {
            self.scanner.transparent = true;
        }
        self.held.extend_from_slice(more.filled());
        self.ready = self.scanner.scan(&mut self.held);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LegalAuthority<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.ready > 0 {
                let count = this.ready.min(buf.remaining());
                buf.put_slice(&this.held[..count]);
                this.held.advance(count);
                this.ready -= count;
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                ready!(this.poll_rest(cx))?;
            } else if ready!(this.poll_direct(cx, buf))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LegalAuthority<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    /// `h2` asks before it writes anything, and then before each write. By the first answer it chooses from which
    /// size on it leaves an answer where it lies and sends it by itself, ahead of its trailers: 256 bytes, or 1024
    /// after a no. That no saves a small answer a second system call, and its client a second wake-up; the later
    /// yes keeps large answers whole.
    fn is_write_vectored(&self) -> bool {
        self.written && self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Follows the frames of one direction of a connection.
#[derive(Debug)]
struct Scanner {
    /// Bytes until the next frame's header.
    skip: usize,
    walker: Walker,
    /// Set once the client broke a rule, or left: from then on bytes pass as they are.
    transparent: bool,
}

impl Scanner {
    fn new() -> Self {
        Self { skip: PREFACE.len(), walker: Walker::default(), transparent: false }
    }

    /// Goes over new bytes, which continue where the last call's released bytes ended, and rewrites the
    /// header blocks that are whole. Returns how many bytes may be released.
    fn scan(&mut self, data: &mut [u8]) -> usize {
        let mut at = 0;
        while !self.transparent {
            let skipped = self.skip.min(data.len() - at);
            self.skip -= skipped;
            at += skipped;
            let rest = &mut data[at..];
            let Some(frame) = Frame::at(rest) else { return at };
            if frame.kind != HEADERS {
                self.skip = FRAME_HEADER + frame.len;
                continue;
            }
            match Block::find(rest) {
                Block::Whole(end) => {
                    self.rewrite(&mut rest[..end]);
                    at += end;
                }
                Block::Cut => return at,
                Block::Foul => self.transparent = true,
            }
        }
        data.len()
    }

    /// Makes a header block legal that lies in one HEADERS frame and any CONTINUATION frames.
    fn rewrite(&mut self, frames: &mut [u8]) {
        let fragments = fragments(frames);
        let result = match fragments.as_slice() {
            [(start, end)] => self.walker.legalise(&mut frames[*start..*end]),
            several => {
                let mut block: Vec<u8> = Vec::new();
                several.iter().for_each(|&(start, end)| block.extend_from_slice(&frames[start..end]));
                let result = self.walker.legalise(&mut block);
                let mut rest = block.as_slice();
                for &(start, end) in several {
                    let (part, after) = rest.split_at(end - start);
                    frames[start..end].copy_from_slice(part);
                    rest = after;
                }
                result
            }
        };
        self.transparent |= result.is_err();
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    fn at(data: &[u8]) -> Option<Self> {
        let header: [u8; FRAME_HEADER] = data.get(..FRAME_HEADER)?.try_into().ok()?;
        let len = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        Some(Self { len, kind: header[3], flags: header[4] })
    }
}

/// Whether a header block is there to its end.
enum Block {
    /// It ends here.
    Whole(usize),
    /// There is more to come.
    Cut,
    /// It is too long, or something else comes in between.
    Foul,
}

impl Block {
    /// Looks at data that begins with a HEADERS frame.
    fn find(data: &[u8]) -> Self {
        let mut end = 0;
        loop {
            let Some(frame) = Frame::at(&data[end..]) else { return Self::Cut };
            if end > 0 && frame.kind != CONTINUATION {
                return Self::Foul;
            }
            end += FRAME_HEADER + frame.len;
            if end > LONGEST_BLOCK {
                return Self::Foul;
            }
            if end > data.len() {
                return Self::Cut;
            }
            if frame.flags & END_HEADERS != 0 {
                return Self::Whole(end);
            }
        }
    }
}

/// Where the fragments of a whole header block lie. Padding that leaves no room is the server's to
/// refuse: such a fragment counts as empty.
fn fragments(frames: &[u8]) -> SmallVec<[(usize, usize); 2]> {
    let mut found = SmallVec::new();
    let mut at = 0;
    while let Some(frame) = Frame::at(&frames[at..]) {
        let (mut start, mut end) = (at + FRAME_HEADER, at + FRAME_HEADER + frame.len);
        at = end;
        if frame.kind == HEADERS {
            if frame.flags & PADDED != 0 {
                let padding = frames.get(start).map_or(0, |&length| usize::from(length));
                start += 1;
                end = end.saturating_sub(padding);
            }
            if frame.flags & PRIORITY != 0 {
                start += 5;
            }
        }
        found.push((start.min(at), end.max(start.min(at))));
    }
    found
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

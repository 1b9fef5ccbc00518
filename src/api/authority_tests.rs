use super::*;
use crate::api::hpack::testing::{Field, Form, Sender, blocks};
use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A socket whose reads give pieces of given sizes, with pauses in between.
struct Pieces {
    data: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    pause: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = self.sizes.pop().unwrap_or(usize::MAX).max(1).min(buf.remaining());
        let end = self.data.len().min(self.at.saturating_add(size));
        buf.put_slice(&self.data[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

/// What a reader sees that asks for `room` bytes at a time. The first `start` bytes were read before.
fn through(data: &[u8], start: usize, sizes: Vec<usize>, room: usize) -> Vec<u8> {
    let start = start.min(data.len());
    let pieces = Pieces { data: data[start..].to_vec(), at: 0, sizes, pause: false };
    let mut legal = LegalAuthority::new(pieces, &data[..start]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut seen = Vec::new();
        let mut space = vec![0; room];
        loop {
            match legal.read(&mut space).await.unwrap() {
                0 => return seen,
                read => seen.extend_from_slice(&space[..read]),
            }
        }
    })
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

/// HEADERS with all that may be in it, and CONTINUATION frames for what is after each cut.
fn header_frames(block: &[u8], cuts: &[usize], padding: Option<u8>, priority: bool, stream: u8) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(block.len())).collect();
    cuts.sort_unstable();
    let mut parts = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([block.len()]) {
        parts.push(&block[from..cut]);
        from = cut;
    }
    let last = parts.len() - 1;
    let end_headers = |at: usize| if at == last { END_HEADERS } else { 0 };
    let mut payload = Vec::new();
    payload.extend(padding);
    if priority {
        payload.extend_from_slice(&[0, 0, 0, 0, 15]);
    }
    payload.extend_from_slice(parts[0]);
    payload.extend(std::iter::repeat_n(0, usize::from(padding.unwrap_or(0))));
    let flags = end_headers(0) | padding.map_or(0, |_| PADDED) | if priority { PRIORITY } else { 0 } | 1;
    let mut frames = frame(HEADERS, flags, stream, &payload);
    for (at, part) in parts.iter().enumerate().skip(1) {
        frames.extend(frame(CONTINUATION, end_headers(at), stream, part));
    }
    frames
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        blocks in blocks(),
        cuts in proptest::collection::vec(0_usize..80, 0..3),
        padding in proptest::option::of(0_u8..40),
        priority in any::<bool>(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        start in 3_usize..40,
        sizes in proptest::collection::vec(1_usize..50, 0..200),
        room in 1_usize..200,
    ) {
        let mut sent = [PREFACE, &settings()].concat();
        let mut expected = sent.clone();
        let mut walker = Walker::default();
        for block in &blocks {
            let mut legal = block.clone();
            walker.legalise(&mut legal).unwrap();
            for (frames, block) in [(&mut sent, block), (&mut expected, &legal)] {
                frames.extend(header_frames(block, &cuts, padding, priority, 1));
                frames.extend(frame(0, 1, 1, &body));
            }
        }
        prop_assert_eq!(through(&sent, start, sizes, room), expected);
    }

    #[test]
    fn arbitrary_bytes_come_through_in_number_and_whatever_the_pieces(
        data in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(9), Just(4)], 0..400),
        good_start in any::<bool>(),
        sizes in proptest::collection::vec(1_usize..50, 0..100),
    ) {
        let data = if good_start { [PREFACE, &data].concat() } else { data };
        let whole = through(&data, 0, Vec::new(), 8192);
        prop_assert_eq!(whole.len(), data.len());
        prop_assert_eq!(through(&data, 3, sizes, 17), whole);
    }
}

#[test]
fn a_block_that_never_ends_is_passed_on_rather_than_kept() {
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(HEADERS, 0, 1, &[0x82; 100]));
    for _ in 0..20 {
        sent.extend(frame(CONTINUATION, 0, 1, &[0x82; 4000]));
    }
    assert_eq!(through(&sent, 3, Vec::new(), 8192), sent);
}

/// What an HTTP/2 server sees of the authorities of two requests, the second of which only refers to
/// the first one's through the dynamic table.
async fn seen_by_hyper(repaired: bool, authority: &str, huffman_value: bool) -> Vec<String> {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        record.lock().unwrap().push(authority.unwrap_or_default());
        async { Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new())) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let serve = async {
        if repaired {
            let _ = builder.serve_connection(TokioIo::new(LegalAuthority::new(server, b"")), service).await;
        } else {
            let _ = builder.serve_connection(TokioIo::new(server), service).await;
        }
    };
    let field = |value: &str| Field {
        name: b":authority".to_vec(),
        value: value.into(),
        huffman_name: false,
        huffman_value,
        form: Form::Inserted,
        literal_name: false,
    };
    // :method GET, :scheme http and :path / from the static table.
    let block = |sender: &mut Sender| [&[0x82, 0x86, 0x84][..], &sender.block(&[field(authority)])].concat();
    let mut sender = Sender::default();
    let mut frames = [PREFACE, &settings()].concat();
    frames.extend(header_frames(&block(&mut sender), &[5, 9], Some(7), true, 1));
    frames.extend(header_frames(&block(&mut sender), &[], None, false, 3));
    let talk = async {
        client.write_all(&frames).await.unwrap();
        // An acknowledged PING says that all before it has been dealt with.
        client.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(8).any(|bytes| bytes == [7; 8]) {
            let mut some = [0; 1024];
            let read = client.read(&mut some).await.unwrap();
            assert!(read > 0, "hung up");
            answer.extend_from_slice(&some[..read]);
        }
        drop(client);
    };
    tokio::join!(serve, talk);
    let mut seen = seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

#[tokio::test]
async fn an_http2_server_takes_what_it_would_refuse() {
    for huffman in [false, true] {
        assert_eq!(
            seen_by_hyper(false, "tmp%2Fx.sock", huffman).await,
            [""; 0],
            "no repair is needed any more"
        );
        assert_eq!(seen_by_hyper(true, "tmp%2Fx.sock", huffman).await, ["tmp-2Fx.sock"; 2]);
        assert_eq!(seen_by_hyper(true, "/run/w.sock", huffman).await, ["-run-w.sock"; 2]);
        assert_eq!(seen_by_hyper(true, "localhost:80", huffman).await, ["localhost:80"; 2]);
    }
}

/// A socket that takes slices and keeps what each write gave it.
struct Writes(tokio::io::DuplexStream, Arc<Mutex<Vec<Vec<u8>>>>);

impl AsyncRead for Writes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Writes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = bufs.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, &whole))?;
        assert_eq!(written, whole.len(), "the pipe has room");
        self.1.lock().unwrap().push(whole);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Writes that an answer of that many bytes, and trailers, leaves in.
async fn writes_of_an_answer(length: usize) -> usize {
    let (client, server) = tokio::io::duplex(1 << 16);
    let writes = Arc::default();
    let server = Writes(server, Arc::clone(&writes));
    let service = service_fn(move |_: Request<hyper::body::Incoming>| async move {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let body = http_body_util::Full::new(bytes::Bytes::from(vec![b'x'; length]));
        let body = http_body_util::BodyExt::with_trailers(body, async move { Some(Ok(trailers)) });
        Ok::<_, Infallible>(Response::new(body))
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let serve = builder.serve_connection(TokioIo::new(LegalAuthority::new(server, b"")), service);
    tokio::spawn(serve);
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://localhost/").body(http_body_util::Empty::<bytes::Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let answer = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    assert!(answer.trailers().is_some());
    assert_eq!(answer.to_bytes().len(), length);
    let writes = writes.lock().unwrap();
    let first = writes.iter().position(|write| write.contains(&b'x')).unwrap();
    writes.len() - first
}

#[tokio::test]
async fn a_small_answer_leaves_in_one_write_and_a_large_one_is_not_cut() {
    assert_eq!(writes_of_an_answer(700).await, 1);
    assert_eq!(writes_of_an_answer(10_000).await, 2, "the answer, then its trailers");
}

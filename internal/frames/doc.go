// Package frames carries the sessions of one proxy on one backend over a few shared
// connections (design, "Sessions that survive"). A Client is the proxy's end of such a
// connection, Serve the backend's, a Stream one session: a net.Conn at either end.
//
// # Beginning
//
// The proxy says a wire.Hello with protocol wire.ProtocolFrames and version
// wire.VersionFrames, one line; the backend answers with a wire.Welcome of that
// version. A backend that answers without it is older: it takes a connection for each
// session (ErrPlain). Then both sides send frames.
//
// HandOff in the Hello says that the proxy takes hand-offs, in the Welcome that the
// backend makes and takes them: RESUME, HAND-OFF, CHECKPOINT and STATE are sent only
// where both do (Options.HandOff, which a backend sets to what the Hello said). So
// either side may be upgraded first.
//
// # Frames
//
//	frame   = type (1 byte) stream (4) length (4) payload     numbers are big-endian
//	session = begin WELCOME *( DATA / CONSUMED / checkpoint / ... ) [ HAND-OFF state ] CLOSE
//	begin   = OPEN / RESUME state
//	checkpoint = CHECKPOINT state / POINT
//	state   = 1*STATE                  each stream's, in order; other streams' in between
//
//	OPEN        proxy    wire.Hello in JSON: a session, under a number never used before
//	RESUME      proxy    wire.Hello in JSON; STATE follows: a session that was let go
//	WELCOME     backend  wire.Welcome in JSON; unless it is ok, the stream is over
//	DATA        both     consumed (8 bytes), then bytes of the session
//	CONSUMED    both     consumed (8 bytes)
//	COMPRESS    backend  consumed (8 bytes): what follows it goes deflated to the client
//	COMPRESSED  proxy    what follows it is what the client's deflated bytes mean
//	CLIENT-GONE proxy    the client hung up, or was idle for too long: no more DATA
//	END         both     this side sends no more DATA, and no client hung up
//	CLOSE       both     this side forgets the stream
//	HAND-OFF    backend  counters; STATE follows: this backend lets go of the session
//	CHECKPOINT  backend  counters; STATE follows, in place of earlier ones
//	STATE       both     flags (1 byte, 1: the last one), then a piece of the state
//	POINT       backend  counters, tip: the last CHECKPOINT's state with this behind it
//	GO-AWAY     backend  stream 0: open no more streams here
//	PING, PONG  both     stream 0: the other side is alive
//
// Counters are two totals of the stream, of 8 bytes each: how many of the client's bytes
// the backend has consumed, and how many it has sent, before compression. A stream that
// was resumed counts from 0 again.
//
// # Credit
//
// Each side counts, per stream, the bytes of DATA that it sent, received and consumed,
// which is read by its user. It sends no more than a window beyond what the other side
// has consumed, so no stream makes the other side keep more than that, and a stream
// whose reader is slow stops nobody else's. The proxy keeps what it sent until it is
// consumed, to have it for another backend after a hand-off. A backend tells what it
// consumed with its DATA, and before it waits, so that an idle stream keeps nothing.
//
// # Compression
//
// COMPRESS=DEFLATE (RFC 4978) ends at the proxy. The client's deflated bytes begin
// behind the last byte that was consumed when the backend called Compress: until it
// has told the client OK it does not read on. What the proxy had sent beyond, the
// client's raw bytes, the backend drops, and the proxy sends anew what they mean, behind
// COMPRESSED. So both directions switch at the exact byte, whenever the frames cross.
// CLIENT-GONE or END before COMPRESSED is dropped likewise, and said again (where both
// sides know of hand-offs; others take it as the end).
//
// # Hand-off
//
// A backend that must let go of a session sends HAND-OFF behind the last byte of its own,
// with the state that it goes on from (HandOff), and then nothing but CLOSE. The proxy's
// Read gives ErrHandOff there, and no Write of the proxy succeeds once it came: what was
// written beyond the counter of consumed bytes was read by nobody, and HandedOff gives it
// back. In the middle of a COMPRESS those are the client's raw bytes, unless Switch has
// been called. So a session goes on elsewhere with no byte lost, and none twice: RESUME,
// the whole state, WELCOME, and then what was given back. Compression goes on at the
// proxy; the new stream is plain.
//
// A backend does nothing of a RESUME before its state is there, and answers it with
// WELCOME in any case: wire.StatusUnresumable means never, refused that this backend, or
// this connection, does not take it now. Without an answer to a RESUME that was sent
// whole nobody knows whether the session goes on, and it must not be tried again
// (ErrOutcome): it could be at two places.
//
// CHECKPOINT tells, in advance, what HAND-OFF would, for a backend that crashes. After
// ErrLost the proxy may go on from it, if its counters are those of the stream: all that
// was written was consumed by then, or surely never left and is given back, and nothing was
// received since (LastCheckpoint). Otherwise the client may have seen more than the state knows.
//
// A checkpoint goes before the bytes that lead to it, in one batch with them (Point): its
// counter of sent bytes is ahead, and the one before serves until they are there. So an answer
// and its checkpoint come together or not at all. What has changed little since the last
// CHECKPOINT is told by a POINT: a tip that is put behind that state, or none, where it is
// that of the POINT before. What a tip means is the engine's affair. A proxy that takes this
// says "points" in the JSON of OPEN and RESUME; others get CHECKPOINT alone, behind the bytes.
//
// States are bounded, each and for all streams of a connection together: at a backend
// one more is refused, at a proxy a checkpoint is not kept.
//
// # Ends
//
// A Read ends in io.EOF when the other side has ended or closed the stream, with
// ClientGone telling which; in ErrLost when the connection broke, which to a backend
// means that the proxy is gone, not the client. A backend that drains sends GO-AWAY, and
// refuses what crosses it, until the proxy closes the connection or a short time has
// passed.
//
// A crash loses the connection's sessions and nothing else. Everything is bounded:
// frames, windows, streams, and how long the network may take.
package frames

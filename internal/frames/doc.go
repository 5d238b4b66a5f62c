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
// # Frames
//
//	frame   = type (1 byte) stream (4) length (4) payload     numbers are big-endian
//	session = OPEN WELCOME *( DATA / CONSUMED / ... ) CLOSE   each stream's, in order
//
//	OPEN        proxy    wire.Hello in JSON: a session, under a number never used before
//	RESUME      proxy    counters, wire.Hello; STATE follows: a session handed off elsewhere
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
//	GO-AWAY     backend  stream 0: open no more streams here
//	PING, PONG  both     stream 0: the other side is alive
//
// Counters are two totals, of 8 bytes each: how many of the client's bytes the backend
// has consumed, and how many it has sent.
//
// # Credit
//
// Each side counts, per stream, the bytes of DATA that it sent, received and consumed,
// which is read by its user. It sends no more than a window beyond what the other side
// has consumed, so no stream makes the other side keep more than that, and a stream
// whose reader is slow stops nobody else's. The proxy keeps what it sent until it is
// consumed: Unconsumed is what another backend is to be sent after a hand-off. A backend
// tells what it consumed with its DATA, and before it waits, so that an idle stream
// keeps nothing.
//
// # Compression
//
// COMPRESS=DEFLATE (RFC 4978) ends at the proxy. The client's deflated bytes begin
// behind the last byte that was consumed when the backend called Compress: until it
// has told the client OK it does not read on. What the proxy had sent beyond, the
// client's raw bytes, the backend drops, and the proxy sends anew what they mean, behind
// COMPRESSED. So both directions switch at the exact byte, whenever the frames cross.
//
// # Ends
//
// A Read ends in io.EOF when the other side has ended or closed the stream, with
// ClientGone telling which; in ErrLost when the connection broke, which to a backend
// means that the proxy is gone, not the client.
//
// A crash loses the connection's sessions and nothing else. Everything is bounded:
// frames, windows, streams, and how long the network may take.
package frames

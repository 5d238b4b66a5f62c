// Package deflate is what COMPRESS=DEFLATE (RFC 4978) needs of RFC 1951 at a proxy
// with many sessions, which the standard library does not give:
//
//   - An Inflater is fed: it takes what a client sent, whatever it is cut into, and
//     gives all that can be told from it at once. compress/flate gives nothing of a
//     block before its end unless an empty stored block follows (Z_SYNC_FLUSH);
//     clients that flush with Z_PARTIAL_FLUSH would wait for ever.
//   - A Deflater compresses piece by piece and keeps nothing between two of them, so
//     that a session that is idle, or whose client is slow, costs no compressor
//     (about 1 MB); what it loses is matches across pieces of 32 KiB.
//
// Memory: an Inflater is about 40 KiB, whatever the client sends; a Deflater has as
// many compressors as pieces are compressed at one moment. Nothing survives a crash.
package deflate

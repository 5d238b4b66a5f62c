// Package lmtp is the client of the LMTP hop (RFC 2033) between an mx, or a
// backend that delivers again, and a backend; it can speak SMTP (RFC 5321) too,
// with STARTTLS (RFC 3207) and AUTH (RFC 4954), to those who take our mail on.
//
// It owns one connection and promises:
//   - Bytes of a message arrive as they were written. With CHUNKING (RFC 3030)
//     nothing at all is changed; with DATA leading dots are stuffed (RFC 5321,
//     Section 4.5.2) and a last line without CRLF gets one, because DATA can
//     express nothing else. The caller brings CRLF line endings.
//   - Every recipient keeps its own reply (RFC 2033, Section 4.2), in the order
//     of the accepted RCPTs, the same address given twice included.
//   - Every write and every reply has a deadline, and a reply is limited in size.
//   - Nothing that the caller passes as an address or parameter can end a
//     command early: control characters are refused (ErrSyntax);
//     nothing was sent then, and the connection is as it was.
//
// A negative reply is a Reply, not an error. Any other error means that the
// connection is of no more use: the outcome of what was sent is not known, and
// the Client must be closed. A Client is for one goroutine at a time; Close may
// be called from any.
//
// XCLIENT is Postfix's extension, which Dovecot knows: see
// https://www.postfix.org/XCLIENT_README.html.
package lmtp

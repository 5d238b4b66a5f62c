// Package proxy is the tier that clients of IMAP, POP3 and ManageSieve talk to: it
// logs them in against the directory, opens a session on the home of the user,
// and from then on copies bytes.
//
// It owns its listeners and the connections of its clients, and nothing worth
// saving: a killed proxy loses its sessions and nothing else. Mains build one
// Server per proxy node; no tier imports another.
//
// Promises:
//   - A session is opened only where a location record says, with the record's
//     (home, epoch), and a backend that refuses them is believed (R1). There is
//     no default home: a user whose home is not known is told to come back.
//   - A busy user's login waits, and goes on at the new home. A login refused
//     twice at the same (home, epoch) holds: it re-reads and tries again every
//     few seconds, with jitter, and is counted for an alarm if the home
//     contradicts the directory (R11). No login waits longer than login_wait.
//   - A password is checked by the login.Guard before any backend hears of it,
//     and never logged. What the client pipelined behind its login reaches the
//     backend as it was sent.
//   - After the login nothing is parsed to be changed. COMPRESS=DEFLATE ends here,
//     where the backend says so. The stream to an IMAP client is followed just enough to know whether a BYE would be read as
//     one, so that a lost backend, a kick or a shutdown never puts words into
//     the middle of a literal.
//   - An idle session holds no buffer besides those of its client's TLS connection,
//     and 40 KiB if that client compresses. A client that is slow, or sends much,
//     stalls no other session.
//   - Every read and write has a deadline, every queue a limit, every goroutine
//     an end that Shutdown waits for.
//
// To a backend of kind waypost it speaks internal/frames over mutual TLS: sessions
// share a few connections (links); one of before frames gets a connection for each.
// A connection that breaks ends its sessions, with a BYE where that fits. To one of kind dovecot, IMAP or POP3 as a client. ManageSieve
// is for users on the former only.
//
// RFCs: 9051, 3501, 1939, 5804 and those named in proxy/imap, proxy/pop3 and
// proxy/managesieve.
package proxy

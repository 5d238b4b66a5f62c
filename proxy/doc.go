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
//   - A session of a backend of kind waypost goes on when that must let go of it, for a
//     move, a restart or an upgrade: it is parked, resumed at the home and epoch of the
//     record as soon as that is active, and given what of the client's no backend has
//     read, so that no byte is lost and none comes twice. The client sees a pause of
//     resume_wait at most. After a crash it goes on from the backend's last checkpoint if
//     that is provably what the client has seen. What cannot go on ends with BYE, counted
//     by reason: never a wrong view. A resume whose outcome is not known is not repeated.
//     No more than resume_concurrency sessions resume on a backend at the same time.
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
// A connection that breaks ends those of its sessions that cannot be resumed, with a BYE
// where that fits. To one of kind dovecot, IMAP or POP3 as a client; there, and with a
// backend of before hand-offs, a move ends sessions. ManageSieve is for users on the
// former only.
//
// RFCs: 9051, 3501, 1939, 5804 and those named in proxy/imap, proxy/pop3 and
// proxy/managesieve.
package proxy

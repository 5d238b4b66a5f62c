// Package mx is the cluster's mail entrance: SMTP from the internet (RFC 5321)
// and submission from the cluster's own users (RFC 6409), streamed to the home
// backends by LMTP, with a durable spool for what cannot be delivered now.
//
// It owns its listeners, its spool (mx/spool) and its way out (mx/relay). Everything else it reads: the
// routing directory (Deps.Directory), who is alive (Deps.Liveness), who may log
// in (Deps.Authenticator).
//
// Promises:
//   - A recipient is decided at RCPT by its home backend's own answer. Unknown,
//     disabled and over-quota users are refused in the session, so that nothing
//     is ever bounced to a forged sender. Nothing from the internet is relayed:
//     only members that an address of ours has outside get it sent on.
//   - 250 after the message means durable: at every home that said so, and for
//     all other recipients in the spool, synced. After it nothing is bounced,
//     refused or expired; a user who is gone by then leaves a dead letter.
//   - One delivery id per message: whatever is sent again carries the id that
//     was sent before, so that a backend delivers once (I3).
//   - If the spool cannot be written the sender gets 452. Who is known to need
//     it at the message's end is there before any home commits; only when a home
//     falters after that, and the disk with it, may others have delivered, who
//     get the sender's next try as a new message.
//   - A list's member that cannot be served is no silence: one over quota gets
//     the mail from the spool, one refused for good leaves a dead letter.
//   - A message holds at most Config.MemoryBytes and a few buffers in memory,
//     whatever its size, and each home gets it once however many recipients.
//   - Bare CR or bare LF anywhere in a message is refused and the connection
//     closed: the seed of SMTP smuggling. So is what a client sends too slowly.
//   - A stale look-up is corrected once by a linearizable read; refused twice at
//     one (home, epoch) the message is spooled and an alarm raised (R11).
//
// The SMTP protocol is emersion/go-smtp's, behind a connection (guard) that
// answers for what the library leaves open: STARTTLS, deadlines and minimum
// rate, strict line endings, an unqualified <postmaster>, and above all that no
// byte of a message is executed as a command after a read error.
//
// What leaves (users' submissions to other domains, forwards, and what backends
// hand over by package relayapi) goes by mx/relay to a smarthost: durable before
// the answer, one answer for local and outside recipients together. Users send
// by their own addresses only, within limits.
//
// Foreign homes (kind dovecot) have no fence and remember no delivery ids: a
// retry there may deliver twice, as it may between any two LMTP servers.
package mx

// Package bench measures how fast a mail store takes mail durably, and what
// that costs it: a load generator for LMTP (RFC 2033) and SMTP (RFC 5321) that
// checks every answer, the bare limit of the disk, a suite that runs several
// servers by turns, and the cost of single operations in small and large
// mailboxes.
//
// # Contract
//
// It owns what lies below the folder that a Suite or Growth is given, and
// nothing else: each run gets a fresh folder there, nothing is deleted before
// the end (on ext4 creating files is several times dearer for minutes after a
// mass deletion), and the caller removes it.
//
// A message counts once it got its 250, for each recipient; every other answer
// is an error that is counted and shown. After each run the messages on the
// disk are counted and must be those acknowledged: a store that loses or
// doubles mail has no rate.
//
// The server's CPU is that of its process and all descendants, alive and
// reaped, from the first measured message until the work it put off is done.
// The generator's own is measured apart, so that one can tell who was the limit
// on a machine that both share.
//
// It imports no tier: servers are started by whoever calls (package dovecot
// below starts Dovecot, deploy/benchmark starts Waypost). A Load may be used by
// one goroutine; everything ends with its context.
package bench

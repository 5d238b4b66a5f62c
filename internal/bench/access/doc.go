// Package access measures what a mail store's readers wait for and what they cost: sessions of
// IMAP (RFC 9051, RFC 3501) and POP3 (RFC 1939) on a mailbox of a given size, in servers
// that are given copies of the same Maildir.
//
// # Contract
//
// It owns what lies below the folder that a Suite is given, and nothing else; the caller
// removes it. One Maildir of each size is made from messages whose every property
// follows from their number; each server gets it by hard links, in names as Dovecot writes them.
//
// An operation counts only if it was answered right: the number of messages, lines and hits that
// every answer must have is known from the messages themselves. Any other answer, a NO,
// or a broken connection ends the measurement: a server that answers wrong has no speed.
//
// Wall time is the client's, from its first byte to the answer's last. CPU is that of all
// processes between the client and the disk, alive and reaped; of what a server puts off
// until after its answer too, where the operation writes.
//
// It imports no tier: servers are started by whoever calls (bench.Peer).
package access

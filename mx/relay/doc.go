// Package relay is the way out of an mx: a durable queue of the mail that
// leaves the cluster (what users submit, Sieve's redirects and replies,
// forwards of addresses), and its transfer to a smarthost by SMTP (RFC 5321).
//
// It owns its folder, exclusively: package entries keeps the messages in it,
// and done/ the ids of what has ended. It promises:
//   - An entry is durable when Reserve or Add returns; one copy of the message
//     however many recipients, each of which has a state of its own.
//   - An id that a caller gave is taken once, for Config.RememberIDs or the last
//     500,000 of them, whichever is less; again, it is a no-op (ErrKnown).
//   - A recipient leaves an entry when the smarthost has taken responsibility,
//     the inward spool has it, or it has failed; durably before the next batch
//     is tried. After a crash, or an answer that was lost, a message may go out
//     twice: SMTP has no more to give (RFC 5321, Section 4.5.3.2.6).
//   - What failed for good is reported (RFC 3464) to the user on whose behalf it
//     was sent if the envelope sender is an address of that user, durably, by
//     the inward spool. For anybody else it is a dead letter with an alarm, or
//     only logged if a program had made it: nothing is ever bounced to the
//     outside, nor to a null sender. The sender of what is forwarded or
//     redirected is kept as it was; there is no SRS.
//   - Recipients of this cluster's own domains go the inward way, by the spool.
//   - Trouble of the smarthost as a whole holds everything back, and one entry
//     alone tries whether it is over.
//   - Passwords are read from a file at each login and never logged, and are
//     sent over verified TLS only.
//
// Where mail for a domain goes is asked of Deps.Route, so that delivery straight
// to other providers can be put there; today it is the smarthost, or nowhere.
//
// Memory: an envelope per entry, and a few buffers per connection. How often an
// entry was tried, and the counts of the rate limits, are in memory only.
//
// Lanes: what an entry's new recipients mean is found out in the inward lane,
// which needs no smarthost; the outward lane has as many workers as there may
// be connections. Safe for concurrent use; only mx may use it.
package relay

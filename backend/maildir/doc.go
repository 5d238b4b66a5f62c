// Package maildir is the store of a backend: one user's folders as Maildir++ in
// the form Dovecot 2.3 and Courier read and write. It implements mailbox.Box
// and mailbox.Folder; only the backend imports it.
//
// # What lies on the disk
//
//	<root>/deliveries                       ids of deliveries (package deliveries)
//	<root>/Maildir/{cur,new,tmp}            INBOX
//	<root>/Maildir/.A.B/{cur,new,tmp}       the folder A/B, parts in modified UTF-7
//	…/dovecot-uidlist, dovecot-keywords     of each folder
//	<root>/Maildir/{maildirsize,subscriptions,dovecot-uidvalidity*}
//	<root>/Maildir/..waypost-*              folders being made or deleted
//
// The fence is not here. Nothing else that a user has is outside of root, so
// copying root copies the user, modification times included: they are the
// internal dates.
//
// # Serialisation
//
// Each operation of a handle takes the user's lock through Guard, which also
// checks the fence, and holds it to the end; streaming (Stage, reading a Body)
// is done outside. One process has one Account of a user.
//
// # States of a delivery
//
// A Staged message is a synced file in the incoming folder. Delivering it is:
//
//	1  link into tmp, sync tmp        a crash leaves litter; recovery removes it
//	2  append the id to deliveries    from here on the message is delivered
//	3  rename tmp → new, sync new     a crash before it: recovery does it
//	4  add to the quota log           a crash before it: recovery counts anew
//
// The id and the message are so one durable step (I3): the message is in tmp
// before the id is there, and an id whose file is still in tmp is finished by
// recovery, by the next attempt to deliver it, or by Flushed.
//
// # UIDs
//
// A UID is durable in dovecot-uidlist before it is told, and before the file
// of an appended, copied or moved message gets its name. New messages get theirs
// in the order of their names. Lines of files that are gone are dropped in time.
// A uidlist that is missing or corrupt is begun anew under a higher UIDVALIDITY.
//
// # Crashes and errors
//
// A call that returned nil is durable. Flag changes, expunges, copies and moves
// of several messages, and renames of folders with children, may be half done
// after a crash, each message and folder whole. An fsync of a folder that failed
// makes the Account refuse further writes (ErrUncertain): the backend closes
// and opens it again with Recover.
//
// # Foreign changes
//
// A folder is scanned again when the modification time of cur or new tells so.
// Times too recent to be relied on are made up for by one more scan later.
// Own changes are applied to the memory without a scan.
package maildir

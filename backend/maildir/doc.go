// Package maildir is the store of a backend: one user's folders as Maildir++ in
// the form Dovecot 2.3 and Courier read and write. It implements mailbox.Box
// and mailbox.Folder; only the backend imports it.
//
// # What lies on the disk
//
//	<root>/deliveries, memories             ids of deliveries, and what filters
//	                                        remember (package deliveries)
//	<root>/sieve/                           scripts; others' files
//	<root>/Maildir/{cur,new,tmp}            INBOX
//	<root>/Maildir/.A.B/{cur,new,tmp}       the folder A/B, parts in modified UTF-7
//	…/dovecot-uidlist, dovecot-keywords     of each folder (packages uidlist, keywords)
//	…/waypost-state, waypost-index          of each folder (packages state, index):
//	                                        mod-sequences, save dates, keywords beyond
//	                                        the letters, email ids, special use,
//	                                        metadata, ACL; INBOX's has the account's
//	                                        metadata, too
//	…/waypost-index.view                    what memory knew of the folder when it was
//	                                        let go: derived, so that who comes back
//	                                        need not list it
//	<root>/Maildir/{maildirsize,subscriptions,dovecot-uidvalidity*}
//	<root>/Maildir/..waypost-*              folders being made or deleted
//
// The fence is not here. Nothing else that a user has is outside of root, once
// Account.Flushed has returned: copying root then copies the user, modification
// times included: they are the internal dates.
//
// # Serialisation
//
// Each operation of a handle takes the user's lock through Guard, which also
// checks the fence, and holds it to the end; streaming (Stage, reading a Body)
// and the wait of a delivery for the journal are outside of it. One process has
// one Account of a user.
//
// # The journal
//
// What is to be durable is a record in the backend's journal (package journal),
// which says what is to be so, with the bytes of messages up to a megabyte;
// longer ones are synced files of the incoming folder. The files change unsynced.
// There are three ways to go:
//
//	deliveries, appends, copies, moves,     two phases: the record; when it is
//	numberings, metadata, ACLs              durable, the files and the memory
//	flags, expunges                         at once: files and memory, then the
//	                                        record; nobody is shown the result, or
//	                                        answered, before it is durable. Of an
//	                                        expunge the state follows the record
//	folders                                 made: durable in the files, then the
//	                                        record. Renamed, deleted (a rename to a
//	                                        hidden name): the record, then durable
//	                                        in the files, all before the answer
//
// Two-phase steps (type commit) are applied in the order of their records. One that
// the disk does not take counts as done: whoever comes next tries again. Until
// then folders are seen as they were, and only expunges are taken, so that a full
// disk can be emptied.
//
// A delivery's line in the log of ids, and in the quota log, are put off: until there
// are many, or the next checkpoint (type late). The id is remembered in memory, and
// no checkpoint passes the record before; whoever reads the quota through the Account
// has it written first.
//
// Subscriptions, keywords' letters and UIDVALIDITYs are replaced files, durable
// on their own, before anything refers to them.
//
// # UIDs and mod-sequences
//
// A UID is in the journal before it is told, and before the file of an appended,
// copied or moved message gets its name. New messages get theirs in the order of
// their names, but those delivered with keywords beyond the letters: only under a
// UID can the state have these. A uidlist that is missing or corrupt is begun anew
// under a higher UIDVALIDITY.
//
// # Keywords
//
// The first 26 of a folder have letters in file names, as Dovecot has them. Further
// ones, up to 500 in all, are marks in the state, which Dovecot does not see. A
// keyword that no message has any more makes room for another; one may have a letter
// on some messages and be a mark of others.
//
// # Ids
//
// MAILBOXID is the GUID of the uidlist, and lasts as long. EMAILID comes from the
// message's GUID; a copy, which has another, has a mark that says what it was. Where
// a GUID is no id of RFC 8474 its hash is.
//
// # Crashes
//
// A call that returned nil is durable. Replay, before anything serves, folds the
// records into what must be so in the end, and brings that about, whatever of it
// the disk has: it never makes again what a later record removed, moved or
// renamed, nor a tree that is gone. It may be cut off and done again. It reads what
// the disk has, not what a kernel still shows of a flush that failed (vfs.DropCache),
// for which the process before may have ended. Messages
// that it touches get new mod-sequences, and the quota is counted anew.
// Nothing is replayed of an epoch that is over: Flushed, or Close and journal.Flush, sync
// all that the records have touched, under the names it has by then as far as this process
// gave or saw them. What another program renamed where nobody has looked since, the next
// checkpoint makes durable. Each
// record is of one step, which is done wholly or not at all; but
//
//   - flags and expunges that were under way may be half done, each message whole
//     but for keywords beyond the letters; of such flags no mod-sequence tells,
//     since nobody was told of them;
//   - INBOX's rename may have made the folder and moved nothing yet, and a delivery
//     the folders it is to make.
//
// # Errors
//
// After an error nothing has changed that a client can see, but: an expunge
// returns what it did remove; flags may stay changed where a failing disk did not
// let them be set back; a subscription may be changed if its sync failed; a
// delivery or a rename of INBOX may have made its folder. When the journal or the
// sync of a folder fails the Account takes no more writes (ErrUncertain). Closed, it
// fails the journal if there is anything that only it knew or that the disk may have
// given up: the backend ends, and replays when it is started again. Where the error is
// about this user's files alone (they may not be touched, or others have removed them)
// it stays open and readable, and each further Close tries again.
//
// # Foreign changes
//
// A folder is scanned again when the modification time of cur or new tells so.
// Times too recent to be relied on are made up for by one more scan later: the
// rarer, the longer it takes, and much rarer where nobody else was seen to change
// anything. Own changes are applied to the memory without a scan. Messages that
// others have removed make the quota be counted anew.
//
// The internal date is the file's modification time. Where a message is in the index, a
// Reader gives the date that it had when it came there: that somebody sets another by hand
// shows in InternalDate at once, in a Reader only when the index is made anew.
//
// # Memory
//
// With the last Box what is known of the folders goes, unless Options.Cache keeps it. It is
// kept for Boxes of the same epoch only, is compared with the disk like that of an open
// folder, and goes with the Account.
//
// # Quota
//
// A recount goes on beside all operations, which tell it what they change; so it is
// exact in the end, whatever happens meanwhile. It takes the user's lock for moments.
// Until then deliveries go by what the log says; only who would be turned away by that
// waits, without locks. What the log says when the Account is closed is exact.
package maildir

// Package fulltext keeps an index of the texts of a user's messages, so that IMAP's SEARCH BODY
// and TEXT need not read all of them.
//
// # What it promises
//
// An index is derived, and only narrows a search down: Lease.Candidates gives at least every
// message in which a string may be, and who asks reads those. A message that the index does not
// have, or that has more text than it takes (maxText), is always a candidate. So an index that
// is behind, half made, cut off or gone costs time, and never changes an answer.
//
// BODY and TEXT ask for substrings, so the index has no words: it has which three bytes stand next
// to each other (trigrams) in the texts that package search looks into (search.Texts),
// prepared by package collate. A message in which a string is found has all its trigrams. Strings of
// less than three prepared bytes are not looked up; a CJK character has three.
//
// Messages are known by GUID and size, and not by folder or UID: flags, moves between folders and
// renumberings cost nothing. A copy is another message.
//
// # What lies on the disk
//
//	<user's folder>/waypost-fulltext/format   of which version the segments are
//	                                /N.zap    segments
//	                                /N.tmp    one that is being written
//
// A segment is a file of bleve's segment format (zapx), which is never changed: new messages
// make a new one, and several become one by being merged into yet another. There is
// no list of them: the files that are there are the index. A crash leaves some more of them,
// with the same messages in two, or some less, and neither matters. A segment ends with a checksum
// over all of it, which is verified when it is opened, before anything else is read; one that
// is wrong is removed, and its messages are taken in again. The format names the versions of
// all that decides which text a message has; another one makes the index begin anew. Whoever
// changes what search.Texts, collate or mime's decoding give must raise formatVersion.
//
// The files are read through memory maps. A disk that fails to deliver a page makes an error of
// the call, since all of it runs in goroutines that turn such faults into panics and recover.
//
// The folder moves along with the user; the digests of segments are remembered by package
// manifest, like those of messages. It does not count for the quota.
//
// # Who writes, and when
//
// A Lease is given for as long as the fence stays where it is. Store.Revoke, which the backend
// calls under the user's lock when the fence leaves, returns when nothing is written any more,
// and all Leases of before are dead. It waits for one batch at most, and interrupts merges:
// reading messages, which takes the user's lock, happens outside of all locks here.
//
// A search takes in what is missing for a moment (foreground). What is left after that, and what deliveries
// bring, is taken in by Store.Run: one worker, which rests as long as it worked, so that it
// takes less where others want the machine. It also merges segments, and drops messages that
// are in no folder any more once they are many.
//
// When the disk has less room than Options.Room wants, or a write fails, an index is not written for
// a while (one line in the log). It is still read.
//
// # Memory
//
// At most Options.MaxOpen indexes are open. One holds 16 bytes a message in a table,
// and what the kernel maps. Taking in needs some 30 MB at a time for each who does it; at most
// two searches do so at once, others go on without.
//
// # Locks
//
// The user's, then entry.mu, then userIndex.write (for a batch, a merge, or closing), then userIndex.mu
// (for a lookup, or a change of the list). Store.mu comes last, alone.
package fulltext

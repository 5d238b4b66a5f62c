// Package journal is the write-ahead log of a backend: one for all its users, so
// that concurrent operations of thousands of them share each flush of the disk. It
// knows nothing of mail: a record is opaque bytes with a user and an epoch.
//
// # What it owns
//
// The folder Options.Dir: a file "checkpoint" and segments named by twenty digits
// and ".wal". One process at a time may have it open; the lock of the backend's
// data folder sees to that.
//
// # What it promises
//
// A record whose Ticket.Wait returned nil is visited by Replay after any crash,
// once and in the order of LSNs, unless a checkpoint has passed it; a checkpoint
// passes only records whose change was in the files (Ticket.Applied) before the
// files were made durable. Records may be replayed that a checkpoint was about to
// pass, and those whose Wait had not returned. LSNs are never given twice, not even
// those of records that a crash has lost. Nothing is visited that a crash could take
// away meanwhile: Open makes durable what it finds, and does not believe what the kernel
// shows of a batch whose flush failed.
//
// The files are made durable by one flush of their file system, on a descriptor that is
// open for as long as the journal is. The kernel tells that one of every write that was
// lost meanwhile, a later one only of what nobody was told of. If a write was lost, be
// it of a file that is none of the journal's business, the journal fails.
//
// All methods of a started journal are safe for concurrent use.
//
// # How a change goes
//
//	Admit       waits for room; no locks are held
//	            the user's lock is taken
//	Append      the record gets its place; another user's may be next to it
//	            the files are changed, unsynced (before or after Wait)
//	Wait        the record is durable: the client may be answered
//	Applied     a checkpoint may pass the record; who writes to a file for many
//	            records at once says so later, in BeforeCheckpoint at the latest
//
// # On disk
//
// Numbers are little endian. A segment begins with a block of its own (blockSize)
// that holds: magic, version, the journal's id, the segment's sequence number, a
// salt, its size, CRC-32C. Batches follow, each beginning on a block: a header
// (magic, count of records, the segment's sequence number and salt, the batch's
// number, LSN of the first record, length and CRC-32C of what follows, CRC-32C of
// the header) and the records: length of data, length of user, epoch, user, data.
//
// A segment is written over once, with zeros, before it gets its name, so that the
// flush of a batch finds all blocks allocated and touches no metadata. When a
// checkpoint has passed all of it, it is given a new header, with a higher sequence
// number and another salt, and a new name; what lies behind the header then belongs
// to another salt and is not looked at. Salts are random, so that no body of a mail
// can contain what looks like a batch.
//
// Only one batch is under way at a time. So what a crash can leave is:
//
//	found                                          meaning
//	no batch, or one that does not check out       the end of the log: no one was told
//	the same, but a batch of a higher number       damage: ErrCorrupt
//	behind it, or "checkpoint" knew a higher one
//	segments before the checkpoint's               spare: passed, or being recycled
//	segments after the one with the end            made ready, never written
//	.waypost-tmp-* files                           unfinished: removed by Start
//	no checkpoint file and no segment              a new journal
//	no checkpoint file but segments                ErrCorrupt
package journal

// Package quota keeps a user's quota log, the file maildirsize of Maildir++ as
// Dovecot and Courier read it.
//
// # The file
//
// The first line is the limit, "<bytes>S,<count>C"; a part that is missing or 0
// sets none, and the whole line may be empty. Each further line is a change,
// "<bytes> <count>", both signed; the usage is their sum:
//
//	1000000000S,50000C
//	81235 12
//	4096 1
//	-1200 -1
//
// # Contract
//
// A change is one O_APPEND write of one line. When the file would pass 4096
// bytes its sum is first written to a new file, which is renamed over it, so
// that it stays under the 5120 bytes above which Dovecot counts the whole
// mailbox again. Any number of goroutines and processes may use one file; no
// change of theirs is lost or counted twice:
//
//   - Whoever changes the file through this package holds an exclusive flock(2)
//     on it, and whoever reads it a shared one; and each checks, once it has the
//     lock, that the path still names the file locked. Else it opens the new one
//     and tries again. The new file of a coalescing is locked before it is
//     renamed into place. (A shared lock would do for appending, were it not for
//     torn lines: seeing that the last line is whole and appending to it must be
//     one step.)
//   - Foreign appenders, such as Dovecot, take no lock. One that opened the file
//     before a coalescing may append to the old file after it. So a Log keeps the
//     old file open for a minute, and carries over what came late: at its first
//     operation a second later, and at Close. An appender that holds its
//     descriptor for longer, or over more than 16 coalescings, is not provided
//     for; Dovecot opens, writes and closes.
//   - A last line without a newline is torn: its writer died or the disk was
//     full. It was never acknowledged, so it does not count; and the next
//     append goes to a new file without it, so that it cannot run into the next
//     line.
//
// A file that is missing is ErrMissing, one that cannot be understood
// ErrCorrupt; the remedy for both is a recount. A negative sum is reported as it
// is (Usage.Known), and also calls for a recount: some change was never logged, or
// a recount of a log that could not be read is at work, or was never finished.
//
// # Recounts
//
// A recount holds no lock while the mailbox is counted, and changes are logged
// meanwhile as ever: BeginRecount notes the sum, the caller finds what the mailbox
// held at that moment, and Finish corrects the log by the difference. It is exact
// if mailbox and log agree in what is before BeginRecount and what after: the
// caller calls it under the lock under which it makes changes and logs them, and
// either takes its totals under that same lock (they may be in memory), or lists
// the mailbox afterwards and leaves out what was added, and puts back what was
// removed, since. Where it cannot tell, Finish reports whether the mailbox was
// quiet meanwhile, and it counts again (Recount). Who has followed its own changes
// while it counted, and so knows what there is now, says that to FinishAt.
//
// # Crashes
//
// Nothing is fsynced, neither appends nor coalescing. A quota log is derived:
// the mailbox itself tells the truth, and a backend that was not stopped cleanly
// recounts its users (the file names carry the sizes) before it trusts their
// logs. An fsync for each delivered message would halve the rate of deliveries
// and make nothing safer. Where a copy must be durable as it stands, before a
// clean stop is recorded or a move is sealed, there is Sync. A crash may leave a
// file maildirsize.new.*, which the next recount removes.
//
// Only the store of a backend may import this package.
package quota

// Package simtest holds no code, but the tests that run the cluster's own step
// code through thousands of random schedules, in one process and in simulated
// time, with failures at every point.
//
// Real are: rebalance's mover (its loop, claims, steps and patience), the
// directory's transactions over director/memory, the caches of mx and proxy, the
// backend's fence (Look, Reconcile, Abandon, the calls' rules, the renames of
// Trees, the fence files, R7), the mx's decisions at RCPT and DATA with its
// spool and retries over LMTP, and the proxy's search for a home. The mailbox
// is one file on internal/vfs/crashfs, and sessions are the smallest that can
// be handed off: what matters is where they live and what they do twice.
//
// TestSessions drives what carries sessions, in schedules of its own: real are the proxy
// from its login to its carrying, the frames between it and backends, the IMAP engine over
// package backend/mailbox/memory, the order in which a backend begins a session
// (package backend/carry), and the list of accepted hand-offs on a disk that crashes. Connections are simulated, and the mover is a few lines. No session may live at
// two places, none may end but where something broke so that nobody can know what its
// client has seen, and each client's view, made of untagged responses alone, must be the truth.
//
// One goroutine has the turn at a time: whoever comes to a seam (a call to the
// directory, to a backend, to a disk) waits there until the scheduler picks it,
// by the seed alone. Those who wait are in an order that is the same each time:
// by process, by what they ask for, and by the place in the code where they do.
// Whoever is told to stop goes on in its turn, too, and so does everybody at a
// schedule's end. testing/synctest gives the time. A seed therefore gives the
// same schedule again; TestSameSeedSameTrace shows it.
//
// After each schedule I1 to I6 are checked: directly, where something happens
// (one writer, one place of a session, UIDs), and at the end on the whole
// history, which must be linearizable (porcupine). TestMutations switches rules
// off one by one, and demands that the checks notice.
//
// More schedules: go test ./deploy/simtest -run TestSchedules -seeds 100000.
// One again, with its trace: -run TestSchedules -seed 123 -v. TestSessions takes the same.
// testdata/seeds keeps those that once failed.
package simtest

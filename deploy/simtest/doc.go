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
// One goroutine has the turn at a time: whoever comes to a seam (a call to the
// directory, to a backend, to a disk) waits there until the scheduler picks it,
// by the seed alone. testing/synctest gives the time. A seed therefore gives
// the same schedule again as far as the code under test leaves it open: two goroutines of
// one mover that ask at one moment come in either order, so a seed mostly, and not always,
// repeats its trace.
//
// After each schedule I1 to I6 are checked: directly, where something happens
// (one writer, one place of a session, UIDs), and at the end on the whole
// history, which must be linearizable (porcupine). TestMutations switches rules
// off one by one, and demands that the checks notice.
//
// More schedules: go test ./deploy/simtest -run TestSchedules -seeds 100000.
// One again, with its trace: -run TestSchedules -seed 123 -v.
// testdata/seeds keeps those that once failed.
package simtest

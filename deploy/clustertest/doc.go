// Package clustertest holds the whole-cluster tests: every role as a process of
// its own (the test binary, run again), driven over real sockets, killed with
// SIGKILL at chosen points, and checked against the invariants I1 to I6 of the
// design. It has no other code. Its seed is printed; WAYPOST_SEED replays it.
package clustertest

//go:build !race

package simtest

// How many schedules the tests run by themselves.
const (
	defaultSeeds = 3 * enoughSeeds // .ci/run adds 3,000
	sameSeeds    = 100
	sessionSeeds = enoughSessions
)

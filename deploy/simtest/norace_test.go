//go:build !race

package simtest

// How many schedules the tests run by themselves.
const (
	defaultSeeds = 4 * enoughSeeds
	sameSeeds    = 100
	sessionSeeds = enoughSessions
)

//go:build race

package simtest

// How many schedules the tests run by themselves: under the race detector one takes ten
// times as long.
const (
	defaultSeeds = enoughSeeds
	sameSeeds    = 10
	sessionSeeds = enoughSessions / 2
)

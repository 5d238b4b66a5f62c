package simtest

import (
	"strings"
	"testing"
)

// TestMutations switches one rule off at a time: the checks must notice, or
// they check nothing. within is how many schedules they may take; what is a
// part of some complaint that shows the harm, and not merely its shadow.
func TestMutations(t *testing.T) {
	for _, m := range []struct {
		off    string
		within int
		what   []string
	}{
		{"serve without epoch check", 400, []string{"I1", "I2", "linearizable"}},
		{"no check at commit", 1500, []string{"I1", "I2", "linearizable"}},
		{"seal without proof", 1000, []string{"I2", "I4", "linearizable"}},
		{"ids not moved", 1000, []string{"I3"}},
		{"fence before rename", 2000, []string{"I2", "fence", "read"}},
		{"no take-back", 1000, []string{"I6"}},
		{"former home not asked", 400, []string{"I1", "alarm"}},
		{"accept an id twice", 1500, []string{"I3"}},
	} {
		t.Run(m.off, func(t *testing.T) {
			t.Parallel()
			root := spoolRoot(t)
			for seed := uint64(1); seed <= uint64(m.within); seed++ {
				o := run(t, root, seed, m.off, false)
				for _, bad := range o.bad {
					for _, what := range m.what {
						if strings.Contains(bad, what) {
							t.Logf("caught by seed %d: %s", seed, bad)
							return
						}
					}
				}
			}
			t.Errorf("not caught by %d schedules", m.within)
		})
	}
}

// TestSessionMutations is TestMutations for sessions.
func TestSessionMutations(t *testing.T) {
	for _, m := range []struct {
		off    string
		within int
		what   string
	}{
		{"resume without epoch check", 400, "lives at"},
		{"former session left", 1500, "lives at 2 places"},
		{"accept a session twice", 1500, "accepted twice"},
		{"an older checkpoint", 1500, "I4"},
		{"late resume ends the newer session", 1500, "was told"},
	} {
		t.Run(m.off, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= uint64(m.within); seed++ {
				for _, bad := range runSessions(t, seed, m.off, false).bad {
					if strings.Contains(bad, m.what) {
						t.Logf("caught by seed %d: %s", seed, bad)
						return
					}
				}
			}
			t.Errorf("not caught by %d schedules", m.within)
		})
	}
}

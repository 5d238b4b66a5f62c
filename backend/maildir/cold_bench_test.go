package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"testing"
	"time"

	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
)

// BenchmarkCold measures the first SELECT of a folder that nobody has in memory: "adopted" by
// another's uidlist, which we never saw; "read" with our own state, but no view; "view" with
// its view, as after a stop or an idle time; "mail" the same with a message that came since;
// "walk" with its view, and every message looked at, as FETCH 1:* (FLAGS) does. Folders
// "changed" have a mod-sequence and a save date for each message, as those have that came
// by us. "new" has neither a uidlist nor a state. cpu-us is the process's time for opening the mailbox and one Snapshot; what closing takes,
// the writing of the view included, is in close-us.
func BenchmarkCold(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		s := newBenchSetup(b, n)
		s.snapshot(s.folder("INBOX"))
		for _, changed := range []bool{false, true} {
			kind := "foreign"
			if changed {
				kind = "own"
				s.touchAll(b)
			}
			for _, c := range []struct {
				name   string
				before func()
				walk   bool
			}{
				{"new", func() { s.without(b, viewName, state.FileName, uidlist.FileName) }, false},
				{"adopted", func() { s.without(b, viewName, state.FileName) }, false},
				{"read", func() { s.without(b, viewName) }, false},
				{"view", func() {}, false},
				{"mail", func() {
					must(b, os.WriteFile(s.path("new", fmt.Sprintf("%d.M1P1Q1.bench,S=26,W=29", time.Now().UnixNano())), []byte("Subject: a\n\nbody xxxxxxxxx\n"), 0o600))
				}, false},
				{"walk", func() {}, true},
			} {
				if changed && (c.name == "adopted" || c.name == "new") {
					continue
				}
				b.Run(fmt.Sprintf("%d/%s/%s", n, kind, c.name), func(b *testing.B) {
					var opened, closed time.Duration
					for range b.N {
						runtime.GC()
						at := cpuTime(b)
						s.b.Close()
						must(b, s.a.Close())
						closed += cpuTime(b) - at
						c.before()
						runtime.GC()
						at = cpuTime(b)
						s.open()
						snap := s.snapshot(s.folder("INBOX"))
						unseen := 0
						if c.walk {
							for _, m := range snap.Messages.All() {
								if m.Flags.System == 0 {
									unseen++
								}
							}
						}
						opened += cpuTime(b) - at
					}
					b.ReportMetric(float64(opened.Microseconds())/float64(b.N), "cpu-us")
					b.ReportMetric(float64(closed.Microseconds())/float64(b.N), "close-us")
				})
			}
		}
	}
}

// without removes files of INBOX.
func (s *setup) without(b *testing.B, names ...string) {
	for _, file := range names {
		if err := os.Remove(s.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.Fatal(err)
		}
	}
}

// touchAll gives each message of INBOX a mod-sequence and a save date.
func (s *setup) touchAll(b *testing.B) {
	f := s.a.folders[""]
	var records []state.Record
	for _, m := range f.msgs.All() {
		modseq, err := f.state.NextModSeq()
		must(b, err)
		records = append(records, state.Change(modseq, uint32(m.UID)), state.Save(time.Unix(1600000000+int64(m.UID), 0), uint32(m.UID)))
	}
	must(b, f.state.Apply(records...))
	s.b.Close()
	must(b, s.a.Close())
	s.open()
	s.snapshot(s.folder("INBOX"))
}

package clustertest

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/director"
)

// trip is one wait of a client for an answer.
type trip struct {
	kind string
	from time.Time
	took time.Duration
}

func (w *wholeRun) trip(u director.User, kind string, from time.Time) {
	t := trip{kind, from, time.Since(from)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trips[u] = append(w.trips[u], t)
}

// textDigest is that of the text of messageFor.
func textDigest(subject string) string {
	_, text, _ := strings.Cut(string(messageFor(subject)), "\r\n\r\n")
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func sizeOf(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// report prints what the clients have noticed.
func (w *wholeRun) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("%d users, %d moves done, %d undone and tried again; %d messages acknowledged, %d sent again; %d visits",
		len(w.users), w.moved.Load(), w.putBack.Load(), w.sent.Load(), w.resent.Load(), w.reads.Load())
	w.t.Logf("IMAP connections: %d opened; ended: %v; errors that a client saw: %d", w.opened, w.ended, w.wrong)
	for _, what := range slices.Sorted(maps.Keys(w.seen)) {
		w.t.Logf("%d × %s", w.seen[what], what)
	}
	kinds := make(map[string][]time.Duration)
	var all, quiet, faulty, busy []time.Duration
	for _, u := range w.users {
		for _, x := range w.trips[u.name] {
			kinds[x.kind] = append(kinds[x.kind], x.took)
			if x.kind != "SMTP" {
				all = append(all, x.took)
			}
		}
		for _, m := range w.moves[u.name] {
			if pause, ok := longest(w.trips[u.name], m.Created, m.Finished); ok && w.disturbed(m.Created, m.Finished) {
				faulty = append(faulty, pause)
			} else if ok {
				quiet = append(quiet, pause)
			}
			busy = append(busy, time.Duration(m.BusyMS)*time.Millisecond)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		w.t.Logf("round trips, %-13s %s", k, spread(kinds[k]))
	}
	w.t.Logf("round trips, IMAP and POP3 %s", spread(all))
	w.t.Logf("user busy, by the journal   %s", spread(busy))
	w.t.Logf("longest wait of a user's clients in a move: without a fault meanwhile %s", spread(quiet))
	w.t.Logf("longest wait of a user's clients in a move: with a fault meanwhile    %s", spread(faulty))
}

// disturbed tells whether there was a fault between two times; the lock is held.
func (w *wholeRun) disturbed(from, to time.Time) bool {
	return slices.ContainsFunc(w.outs, func(o outage) bool { return o.from.Before(to) && o.to.After(from) })
}

// longest is the longest wait of an IMAP or POP3 client that was in part between two times.
func longest(trips []trip, from, to time.Time) (most time.Duration, any bool) {
	for _, x := range trips {
		if x.kind != "SMTP" && x.from.Before(to) && x.from.Add(x.took).After(from) {
			most, any = max(most, x.took), true
		}
	}
	return most, any
}

// spread gives the distribution of durations.
func spread(ds []time.Duration) string {
	if len(ds) == 0 {
		return "none"
	}
	slices.Sort(ds)
	at := func(part float64) time.Duration {
		return ds[int(part*float64(len(ds)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("n=%d p50=%s p99=%s max=%s", len(ds), at(0.5), at(0.99), at(1))
}

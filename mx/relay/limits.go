package relay

import (
	"fmt"
	"sync"
	"time"

	"waypost/director"
)

// limits counts what each user has sent to the outside, by hour and day.
type limits struct {
	perHour, perDay int
	now             func() time.Time

	mu    sync.Mutex // protects what follows
	users map[director.User]*usage
}

// usage is what one user sent: per twelfth of an hour, and per hour of a day.
type usage struct {
	hour window
	day  window
}

// window counts over slots of time that slide.
type window struct {
	slot  time.Duration
	at    int64 // the slot that counts[at%len] is
	count []int
}

func newLimits(perHour, perDay int, now func() time.Time) *limits {
	return &limits{perHour: perHour, perDay: perDay, now: now, users: map[director.User]*usage{}}
}

// slide empties the slots that are over.
func (w *window) slide(now time.Time) {
	at := now.UnixNano() / int64(w.slot)
	n := int64(len(w.count))
	if at-w.at >= n {
		clear(w.count)
		w.at = at
		return
	}
	for w.at < at {
		w.at++
		w.count[w.at%n] = 0
	}
}

func (w *window) sum() (n int) {
	for _, c := range w.count {
		n += c
	}
	return n
}

// LimitError tells who reaches a limit.
type LimitError struct {
	User  director.User
	Limit int
	Per   string // "hour" or "day"
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s has sent to %d recipients outside within a %s, which is the limit", e.User, e.Limit, e.Per)
}

// check says whether u may send to n more; *LimitError.
func (l *limits) check(u director.User, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.users[u]
	if s == nil {
		s = newUsage()
	}
	return l.over(u, s, n)
}

func newUsage() *usage {
	return &usage{hour: window{slot: 5 * time.Minute, count: make([]int, 12)}, day: window{slot: time.Hour, count: make([]int, 24)}}
}

func (l *limits) over(u director.User, s *usage, n int) error {
	now := l.now()
	s.hour.slide(now)
	s.day.slide(now)
	switch {
	case s.hour.sum()+n > l.perHour:
		return &LimitError{u, l.perHour, "hour"}
	case s.day.sum()+n > l.perDay:
		return &LimitError{u, l.perDay, "day"}
	}
	return nil
}

// take counts n more, if u may.
func (l *limits) take(u director.User, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.users[u]
	if s == nil {
		l.prune()
		s = newUsage()
	}
	if err := l.over(u, s, n); err != nil {
		return err
	}
	l.users[u] = s
	s.hour.count[s.hour.at%12] += n
	s.day.count[s.day.at%24] += n
	return nil
}

// pruneAbove is how many users are counted before those who sent nothing for a
// day are forgotten.
const pruneAbove = 10_000

func (l *limits) prune() {
	if len(l.users) < pruneAbove || len(l.users)%pruneAbove != 0 {
		return
	}
	now := l.now()
	for u, s := range l.users {
		if s.day.slide(now); s.day.sum() == 0 {
			delete(l.users, u)
		}
	}
}

package rebalance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"waypost/director"
)

// underWay counts the moves under way over all movers, by their journals.
type underWay struct {
	// begun are those between their first pass and the flip, by backend and, under
	// "", in all; copying those of them that make hot passes.
	begun, copying map[director.BackendID]int
}

func countMoves(moves []director.Move) underWay {
	c := underWay{make(map[director.BackendID]int), make(map[director.BackendID]int)}
	for _, m := range moves {
		c.count(m)
	}
	return c
}

func (c underWay) count(m director.Move) {
	switch m.Phase {
	case director.PhaseCopying, director.PhaseBusy, director.PhaseFrozen, director.PhaseSealed:
	default:
		return
	}
	for _, id := range []director.BackendID{"", m.Source, m.Target} {
		c.begun[id]++
		if m.Phase == director.PhaseCopying {
			c.copying[id]++
		}
	}
}

// limitOf gives the limit that counts for a backend, or, for "", for all.
func limitOf(l director.Limits, id director.BackendID) director.Limit {
	if id == "" {
		return l.Limit
	}
	return l.Backends[id]
}

// held is a planned move that a limit holds back.
type held struct {
	director.Move
	why string
}

// admit decides which moves go on: those that have begun, and of the planned ones,
// the oldest first, as many as the limits leave room for. Every mover decides alike
// from the same journals, so that two do not begin one too many.
func admit(moves []director.Move, l director.Limits, now time.Time) (run []director.Move, wait []held) {
	slices.SortStableFunc(moves, func(a, b director.Move) int {
		planned := func(m director.Move) int {
			if m.Phase == director.PhasePlanned {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(planned(a), planned(b)), a.Created.Compare(b.Created), cmp.Compare(a.User, b.User))
	})
	c := countMoves(moves)
	for _, m := range moves {
		switch why := c.full(m, l); {
		case m.Phase != director.PhasePlanned:
			run = append(run, m)
		case notYet(m, now):
		case why != "":
			wait = append(wait, held{m, why})
		default:
			run = append(run, m)
			m.Phase = director.PhaseCopying
			c.count(m)
		}
	}
	return run, wait
}

// full says which limit leaves no room for m, "" if none.
func (c underWay) full(m director.Move, l director.Limits) string {
	for _, id := range []director.BackendID{"", m.Source, m.Target} {
		most := limitOf(l, id).Moves
		switch {
		case most == 0 || c.begun[id] < most:
		case id == "":
			return fmt.Sprintf("for its turn: no more than %d moves at once", most)
		default:
			return fmt.Sprintf("for its turn: %s takes part in no more than %d moves at once", id, most)
		}
	}
	return ""
}

// share is how many bytes a second a move may copy: its part of each limit that
// counts for it; 0 does not bound.
func (c underWay) share(m director.Move, l director.Limits) int64 {
	var least int64
	for _, id := range []director.BackendID{"", m.Source, m.Target} {
		rate := limitOf(l, id).BytesPerSecond
		if rate == 0 {
			continue
		}
		part := max(rate/int64(max(c.copying[id], 1)), 1)
		if least == 0 || part < least {
			least = part
		}
	}
	return least
}

// share of the limits as they are now.
func (s *Server) share(m director.Move) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.underWay.share(m, s.limits)
}

// watchLimits keeps the limits, known as of a revision, current until ctx ends, and
// wakes the loop when they change: moves that were held back may begin.
func (s *Server) watchLimits(ctx context.Context, from int64) {
	for ; ctx.Err() == nil; from = s.readLimitsAgain(ctx) {
		for batch := range s.dir.Store().Watch(ctx, director.KeyLimits, from+1) {
			for _, c := range batch.Changes {
				if c.Key != director.KeyLimits {
					continue
				}
				if c.Deleted {
					s.setLimits(director.Limits{})
					continue
				}
				l, err := director.DecodeLimits(c.Value)
				if err != nil {
					s.log.Error("unreadable limits: the former ones stand", "error", err)
					continue
				}
				s.setLimits(l)
			}
		}
	}
}

// readLimitsAgain is readLimits until it succeeds or ctx ends.
func (s *Server) readLimitsAgain(ctx context.Context) int64 {
	for {
		from, err := s.readLimits(ctx)
		if err == nil || ctx.Err() != nil {
			return from
		}
		pause(ctx, s.jitter(time.Second))
	}
}

// readLimits gives the revision from which a watch misses nothing.
func (s *Server) readLimits(ctx context.Context) (int64, error) {
	var l director.Limits
	var bad error
	rev, err := s.dir.Store().List(ctx, director.KeyLimits, func(e director.Entry) error {
		if e.Key == director.KeyLimits {
			l, bad = director.DecodeLimits(e.Value)
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case bad != nil:
		s.log.Error("unreadable limits: the former ones stand", "error", bad)
	default:
		s.setLimits(l)
	}
	return rev, nil
}

func (s *Server) setLimits(l director.Limits) {
	s.mu.Lock()
	s.limits = l
	s.mu.Unlock()
	s.poke()
}

// maxHeldNotes bounds the journals of waiting moves that are written in one round: a
// drain may plan thousands.
const maxHeldNotes = 32

// noteHeld says in the journals of moves that are held back why they wait.
func (s *Server) noteHeld(ctx context.Context, wait []held) {
	for i, h := range wait {
		if i == maxHeldNotes || ctx.Err() != nil {
			return
		}
		if h.Waiting == h.why {
			continue
		}
		err := s.dir.NoteWaiting(ctx, h.Move, h.why)
		if err != nil && ctx.Err() == nil {
			s.log.Debug("a waiting move is not noted", "user", h.User, "error", err)
		}
	}
}

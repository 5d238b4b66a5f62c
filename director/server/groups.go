package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/director/cache"
	"waypost/internal/telemetry"
)

// The members of a sharing group live on one backend, so that they can open each
// other's folders there. What is checked here keeps them together; it is no matter
// of safety. Where two directors were at it at once, members may be apart: they then
// see nothing of each other until one of them is moved (see planGroup).

// alone takes the lock of what changes who is in groups and where they live.
func (s *Server) alone(ctx context.Context) (leave func(), err error) {
	select {
	case s.grouping <- struct{}{}:
		return func() { <-s.grouping }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another change of sharing groups: %w: %w", ctx.Err(), director.ErrUnavailable)
	}
}

// others gives the members of a group beside u that are there, with their records.
func (s *Server) others(group string, u director.User) ([]director.User, []director.Record) {
	var names []director.User
	var records []director.Record
	for _, m := range s.cache.Members(group) {
		if r, known, _ := s.cache.Location(m); m != u && known && r.State != director.Deleted {
			names, records = append(names, m), append(records, r)
		}
	}
	return names, records
}

// homeOf gives the backend that the members of a group beside u live on, "" if there
// are none; an error if nobody can join them now.
func (s *Server) homeOf(ctx context.Context, group string, u director.User) (director.BackendID, error) {
	if err := director.ValidGroup(group); err != nil {
		return "", err
	}
	if err := s.cache.Ready(); err != nil {
		return "", err
	}
	members, records := s.others(group, u)
	if len(members) >= director.MaxGroupMembers {
		return "", fmt.Errorf("sharing group %s has %d members, and may have no more than %d: %w", group, len(members), director.MaxGroupMembers, director.ErrIllegal)
	}
	if len(members) == 0 {
		return "", nil
	}
	of := make(map[director.User]bool, len(members))
	for i, m := range members {
		of[m] = true
		if a, b := records[0].Home, records[i].Home; a != b {
			return "", fmt.Errorf("the members of sharing group %s are apart: %s lives on %s, %s on %s: first say waypost move %s --to %s: %w",
				group, members[0], a, m, b, m, a, director.ErrIllegal)
		}
	}
	moves, err := s.readMoves(ctx, func(m director.Move) bool { return of[m.User] })
	if err != nil {
		return "", err
	}
	if len(moves) > 0 {
		return "", fmt.Errorf("sharing group %s is being moved to %s: try again when that has ended: %w", group, moves[0].Target, director.ErrConflict)
	}
	return records[0].Home, nil
}

// placeInGroup gives the home of a new user of a group, where it is asked for as well.
func (s *Server) placeInGroup(ctx context.Context, u director.User, group string, asked director.BackendID) (director.BackendID, error) {
	home, err := s.homeOf(ctx, group, u)
	switch {
	case err != nil:
		return "", fmt.Errorf("user %s: %w", u, err)
	case home == "" || asked == home:
		return asked, nil
	case asked != "":
		return "", fmt.Errorf("user %s: the members of sharing group %s live on %s, not on %s: leave --home out, or move them first: %w",
			u, group, home, asked, director.ErrIllegal)
	}
	return home, nil
}

// mayJoin checks that a user lives where a group's members do.
func (s *Server) mayJoin(ctx context.Context, u director.User, group string) error {
	home, err := s.homeOf(ctx, group, u)
	if err != nil {
		return fmt.Errorf("user %s: %w", u, err)
	}
	loc, err := s.dir.Location(ctx, u)
	if err != nil {
		return fmt.Errorf("user %s: %w", u, err)
	}
	m, err := s.dir.Move(ctx, u)
	switch {
	case err == nil && !m.Value.Phase.Finished():
		return fmt.Errorf("user %s is being moved to %s: try again when that has ended: %w", u, m.Value.Target, director.ErrConflict)
	case err != nil && !errors.Is(err, director.ErrNotFound):
		return fmt.Errorf("user %s: %w", u, err)
	}
	if home != "" && home != loc.Value.Home {
		return fmt.Errorf("user %s lives on %s, the members of sharing group %s on %s: first say waypost move %s --to %s: %w",
			u, loc.Value.Home, group, home, u, home, director.ErrIllegal)
	}
	return nil
}

// settleGroup waits until this director's memory has u's group, but not for long:
// the next one who joins must find it there.
func (s *Server) settleGroup(ctx context.Context, u director.User, group string) {
	changed := make(chan struct{}, 1)
	cancel := s.cache.Subscribe(func(ch director.Change) {
		if ch.Key == director.AccountKey(u) || cache.IsReload(ch) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	limit := time.NewTimer(settleWait)
	defer limit.Stop()
	for s.cache.Group(u) != group {
		select {
		case <-changed:
		case <-limit.C:
			s.log.Debug("the cache lags", "user", u)
			return
		case <-ctx.Done():
			return
		}
	}
}

// setGroup is the part of patchUser that concerns groups; change makes the change.
func (s *Server) setGroup(ctx context.Context, u director.User, group string, change func() error) error {
	leave, err := s.alone(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if group != "" {
		if err := s.mayJoin(ctx, u, group); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		return err
	}
	s.settleGroup(ctx, u, group)
	return nil
}

// planGroup writes the journals of a move of u and of all members of its group who
// do not live at the target: movers carry them out like any others, and whoever is
// left behind by one that was undone can be moved again. Others has what became of
// the others' plans; one that could not be written is told as undone.
func (s *Server) planGroup(ctx context.Context, u director.User, target director.BackendID) (admin.Move, error) {
	leave, err := s.alone(ctx)
	if err != nil {
		return admin.Move{}, err
	}
	defer leave()
	acct, err := s.dir.Account(ctx, u)
	if err != nil && !errors.Is(err, director.ErrNotFound) {
		return admin.Move{}, err
	}
	var members []director.User
	if group := acct.Value.Group; group != "" {
		if members, err = s.toMove(ctx, u, group, target); err != nil {
			return admin.Move{}, fmt.Errorf("move %s to %s: %w", u, target, err)
		}
	}
	m, err := s.dir.PlanMove(ctx, u, target, telemetry.NewID(), s.uniqueNow())
	if err != nil {
		return admin.Move{}, err
	}
	out := admin.MoveOf(m)
	for _, other := range members {
		m, err := s.dir.PlanMove(ctx, other, target, telemetry.NewID(), s.uniqueNow())
		if err != nil {
			s.log.Error("a member of a sharing group is left behind", "user", other, "moved", u, "to", target, "error", err)
			r, _, _ := s.cache.Location(other)
			m = director.Move{User: other, Source: r.Home, Target: target, Epoch: r.Epoch, Phase: director.PhaseUndone, Reason: "not planned: " + err.Error()}
		}
		out.Others = append(out.Others, admin.MoveOf(m))
	}
	return out, nil
}

// toMove gives the members of u's group who do not live at the target. It refuses
// where one of them is on the way elsewhere.
func (s *Server) toMove(ctx context.Context, u director.User, group string, target director.BackendID) ([]director.User, error) {
	if err := s.cache.Ready(); err != nil {
		return nil, err
	}
	all, records := s.others(group, u)
	on := make(map[director.User]director.Move)
	moves, err := s.readMoves(ctx, everyMove)
	if err != nil {
		return nil, err
	}
	for _, m := range moves {
		on[m.User] = m
	}
	var members []director.User
	for i, m := range all {
		mv, moving := on[m]
		switch {
		case moving && mv.Target != target:
			return nil, fmt.Errorf("%s of the same sharing group is being moved to %s: %w", m, mv.Target, director.ErrConflict)
		case !moving && records[i].Home != target:
			members = append(members, m)
		}
	}
	return members, nil
}

package access

import (
	"context"
	"fmt"

	"waypost/internal/bench"
)

// sessions opens idle sessions and looks at the memory.
func (v *visit) sessions(ctx context.Context) error {
	n := v.suite.Sessions
	if n == 0 {
		return nil
	}
	if err := v.selected(); err != nil { // what they share is there
		return err
	}
	before, err := v.memory(ctx)
	if err != nil {
		return err
	}
	var open []*imapClient
	defer func() {
		for _, c := range open {
			c.close()
		}
	}()
	for i := range n {
		v.say(fmt.Sprintf("%d idle sessions", i), false)
		c, err := loginIMAP(ctx, v.srv.IMAP, v.srv.User, v.srv.Password)
		if err != nil {
			return err
		}
		open = append(open, c)
		if _, err := c.selectInbox(v.count); err != nil {
			return err
		}
	}
	after, err := v.memory(ctx)
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("%w: parts of the server came or went", ErrSuite)
	}
	for i, a := range after {
		each := func(after, before int64) float64 { return float64(after-before) / 1024 / float64(n) }
		row := IdleRow{Peer: v.peer.Name, Mode: v.peer.Mode, Messages: v.size, Sessions: n, Part: a.Part,
			ResidentKiB: each(a.Resident, before[i].Resident), LiveKiB: each(a.Live, before[i].Live), StackKiB: each(a.Stacks, before[i].Stacks)}
		v.say(fmt.Sprintf("%d idle sessions, %s: %.1f KiB each, %.1f in use, %.1f of it stacks", n, a.Part, row.ResidentKiB, row.LiveKiB, row.StackKiB), true)
		v.idle = append(v.idle, row)
	}
	if v.suite.Profile != "" && v.srv.Access.HeapProfile != nil {
		return v.srv.Access.HeapProfile(ctx, fmt.Sprintf("%s-%d-idle", v.suite.Profile, v.size))
	}
	return nil
}

func (v *visit) memory(ctx context.Context) ([]bench.Memory, error) {
	if err := bench.Settle(ctx, 3*v.suite.pause()); err != nil {
		return nil, err
	}
	return v.srv.Access.Memory(ctx)
}

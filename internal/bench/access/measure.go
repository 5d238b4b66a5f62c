package access

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"waypost/internal/bench"
)

// task is an operation to be measured.
type task struct {
	key  string // for Suite.Only
	name string // in the table
	do   func() error
	// times is how often it is done; 0: as long as Suite.Duration says, which only what changes
	// nothing can be.
	times int
	// before, where not nil, makes each one ready, outside the measurement.
	before func() error
	// alone: nobody else has the mailbox open.
	alone bool
	// writes: what the server puts off is part of it.
	writes bool
}

// measured is what a task took, all times together.
type measured struct {
	state     State
	name      string
	times     int
	wall, cpu time.Duration
}

const (
	// maxTimes bounds what is repeated for a while.
	maxTimes = 300
	// profileFor is how long a profile of one operation is taken.
	profileFor = 4 * time.Second
)

// note keeps a result, with those of the same from other rounds.
func (v *visit) note(m measured) {
	for i := range v.measured {
		if o := &v.measured[i]; o.state == m.state && o.name == m.name {
			o.times += m.times
			o.wall += m.wall
			o.cpu += m.cpu
			return
		}
	}
	v.measured = append(v.measured, m)
}

func (v *visit) row(m measured) Row {
	return Row{Peer: v.peer.Name, Mode: v.peer.Mode, Messages: v.size, State: m.state, Operation: m.name, Times: m.times,
		WallMS: bench.Ratio(bench.Millis(m.wall), float64(m.times)), CPUMS: bench.Ratio(bench.Millis(m.cpu), float64(m.times))}
}

// measure does a task and notes what it took. each is how many operations one time is: the
// figures are of one.
func (v *visit) measure(ctx context.Context, state State, t task, each int) error {
	v.say(string(state)+", "+t.name, false)
	m := measured{state: state, name: t.name}
	for t.more(m.times, m.wall, v.suite.Duration) {
		if err := v.once(ctx, t, &m); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	m.times *= each
	row := v.row(m)
	v.say(fmt.Sprintf("%s, %s: %.3f ms, %.3f ms CPU", state, t.name, row.WallMS, row.CPUMS), true)
	v.note(m)
	return v.profileRead(ctx, state, t)
}

func (t *task) more(done int, took, within time.Duration) bool {
	if t.times > 0 {
		return done < t.times
	}
	return done < 1 || took < within && done < maxTimes
}

// once does a task once, and adds what it took.
func (v *visit) once(ctx context.Context, t task, m *measured) error {
	if t.before != nil {
		if err := t.before(); err != nil {
			return err
		}
		if t.writes {
			if err := bench.Settle(ctx, v.srv.Settle); err != nil {
				return err
			}
		}
	}
	wait := v.profileOnce(m.state, t)
	cpu, err := v.srv.Access.CPU()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := t.do(); err != nil {
		return err
	}
	m.wall += time.Since(begin)
	m.times++
	after, err := v.srv.Access.CPU()
	if err != nil {
		return err
	}
	m.cpu += after - cpu
	if !t.writes {
		return cmp.Or(ctx.Err(), wait())
	}
	late, err := v.settling(ctx, after)
	if err != nil {
		return err
	}
	m.cpu += late
	return wait()
}

// settling waits until the server has done what it put off, and gives the CPU since cpu, less
// what it would have used at rest.
func (v *visit) settling(ctx context.Context, cpu time.Duration) (time.Duration, error) {
	begin := time.Now()
	if err := bench.Settle(ctx, v.srv.Settle); err != nil {
		return 0, err
	}
	after, err := v.srv.Access.CPU()
	return max(0, after-cpu-time.Duration(v.rest*float64(time.Since(begin)))), err
}

func (v *visit) profileName(state State, t task) string {
	name := fmt.Sprintf("%s-%d-%s-%s", v.suite.Profile, v.size, state, t.name)
	at := strings.LastIndexByte(v.suite.Profile, '/') + 1
	return name[:at] + strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' || r == ',' || r == '+' {
			return '_'
		}
		return r
	}, name[at:])
}

func (v *visit) profiled() bool { return v.suite.Profile != "" && v.srv.Access.Profile != nil }

// profileOnce takes a profile while a task is measured that cannot be repeated.
func (v *visit) profileOnce(state State, t task) (wait func() error) {
	if !v.profiled() || t.times != 1 {
		return func() error { return nil }
	}
	return v.srv.Access.Profile(v.profileName(state, t), v.srv.Settle+time.Second)
}

// profileRead repeats a task for a profile.
func (v *visit) profileRead(ctx context.Context, state State, t task) error {
	if !v.profiled() || t.times != 0 || state != Warm {
		return nil
	}
	wait := v.srv.Access.Profile(v.profileName(state, t), profileFor)
	unused := measured{state: state}
	for end := time.Now().Add(profileFor); time.Now().Before(end); {
		if err := v.once(ctx, t, &unused); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return wait()
}

// quiet waits until the server does next to nothing: what a start brings with it, as journals that
// are made ready, is not the operation's. What uses less than a fiftieth of a processor all the time is at
// rest. Nobody is waited for longer than 30 pauses; the row is measured all the same, which is said.
func (v *visit) quiet(ctx context.Context) error {
	for range 30 {
		before, err := v.srv.Access.CPU()
		if err != nil {
			return err
		}
		if err := bench.Settle(ctx, v.suite.pause()); err != nil {
			return err
		}
		after, err := v.srv.Access.CPU()
		if err != nil || after-before < v.suite.pause()/50 {
			return err
		}
	}
	v.say("it does not come to rest; measured all the same", true)
	return nil
}

// resting measures what the server uses while nothing happens.
func (v *visit) resting(ctx context.Context) error {
	if err := bench.Settle(ctx, v.srv.Settle); err != nil {
		return err
	}
	before, err := v.srv.Access.CPU()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := bench.Settle(ctx, 5*v.suite.pause()); err != nil {
		return err
	}
	after, err := v.srv.Access.CPU()
	v.rest = (after - before).Seconds() / time.Since(begin).Seconds()
	v.say(fmt.Sprintf("at rest it uses %.1f ms CPU a second", v.rest*1000), true)
	return err
}

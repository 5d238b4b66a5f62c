package access

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"waypost/internal/bench"
)

// The names of operations that tests and documents know.
const (
	opSelect = "SELECT"
	opLogin  = "login+SELECT+LOGOUT"
	opAlone  = opLogin + ", alone"
)

// selecting is the first SELECT of a session.
func (v *visit) selecting(ctx context.Context) task {
	return task{key: keySelect, name: opSelect, do: v.selected, before: func() error {
		v.imap.close()
		return v.login(ctx)
	}}
}

// fetches and searches are what clients read, in a mailbox that is selected.
func (v *visit) fetches() []task {
	fetch := func(item string) task {
		return task{key: keyFetch + strings.ToLower(item), name: "FETCH " + item, do: func() error {
			a, err := v.imap.do("FETCH 1:* (" + item + ")")
			if err != nil {
				return err
			}
			return want("messages of FETCH "+item, a.fetched, v.count)
		}}
	}
	search := func(key, word string, every int) task {
		return task{key: keySearch + strings.ToLower(key), name: "SEARCH " + key, do: func() error {
			a, err := v.imap.do("SEARCH " + key + " " + word)
			if err != nil {
				return err
			}
			return want("hits of SEARCH "+key, a.found, hits(0, v.size, every))
		}}
	}
	return []task{fetch("FLAGS"), fetch("ENVELOPE"), fetch("BODYSTRUCTURE"), fetch("PREVIEW"),
		search("SUBJECT", subjectWord, subjectEvery), search("FROM", fromWord, fromEvery), search("BODY", bodyWord, bodyEvery)}
}

// pops are sessions of POP3.
func (v *visit) pops(ctx context.Context) []task {
	session := func(do func(*popClient) error) func() error {
		return func() error {
			c, err := loginPOP(ctx, v.srv.Access.POP3, v.srv.User, v.srv.Password)
			if err != nil {
				return err
			}
			defer c.close()
			if err := do(c); err != nil {
				return err
			}
			return c.quit()
		}
	}
	stat := func(c *popClient) error { return c.stat(v.count) }
	list := func(c *popClient) error {
		for _, command := range []string{"LIST", "UIDL"} {
			if err := c.listing(command, v.count); err != nil {
				return err
			}
		}
		return nil
	}
	tasks := []task{
		{key: keyPOPStat, name: "POP3 login+STAT", do: session(stat)},
		{key: keyPOPList, name: "POP3 login+STAT+LIST+UIDL", do: session(func(c *popClient) error {
			if err := stat(c); err != nil {
				return err
			}
			return list(c)
		})},
		{key: keyPOPRetr, name: fmt.Sprintf("POP3 RETR of %d", v.suite.Batch), do: session(func(c *popClient) error {
			for n := range v.suite.Batch {
				if err := c.multi(fmt.Sprintf("RETR %d", n+1)); err != nil {
					return err
				}
			}
			return nil
		})},
	}
	for i := range tasks {
		tasks[i].alone = true
		tasks[i].before = func() error {
			v.imap.close()
			return nil
		}
	}
	return tasks
}

// reads are all that a mailbox is read by, in an order in which it is selected first.
func (v *visit) reads(ctx context.Context) []task {
	return append(append([]task{v.selecting(ctx)}, v.fetches()...), v.pops(ctx)...)
}

// readFirst is a mailbox that the server never saw.
func (v *visit) readFirst(ctx context.Context) error {
	v.say("waiting until it is at rest", false)
	if err := v.quiet(ctx); err != nil {
		return err
	}
	for _, t := range v.reads(ctx) {
		t.times, t.before = 1, nil
		var err error
		if v.wants(NoIndex, t.key) {
			err = v.measure(ctx, NoIndex, t, 1)
		} else if t.key == keySelect || v.wantsLater(t.key) {
			err = t.do()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readWarm is the same mailbox again, as long as Duration.
func (v *visit) readWarm(ctx context.Context) error {
	if err := v.selected(); err != nil {
		return err
	}
	for _, t := range v.reads(ctx) {
		if !v.wants(Warm, t.key) {
			continue
		}
		if err := v.measure(ctx, Warm, t, 1); err != nil {
			return err
		}
	}
	return nil
}

// readCold starts the server again before each operation.
func (v *visit) readCold(ctx context.Context) error {
	for _, t := range v.reads(ctx) {
		if !v.wants(Cold, t.key) {
			continue
		}
		state, err := v.restart(ctx)
		if err != nil {
			return err
		}
		if t.alone {
			v.imap.close()
		} else if t.name != opSelect {
			if err := v.selected(); err != nil {
				return err
			}
		}
		t.times, t.before = 1, nil
		if err := v.measure(ctx, state, t, 1); err != nil {
			return err
		}
	}
	return nil
}

// restart starts the server again, makes the system forget what it read, and logs in.
func (v *visit) restart(ctx context.Context) (State, error) {
	v.say("starting again", false)
	v.imap.close()
	state := Restarted
	err := v.srv.Access.Restart(ctx, func() error {
		if err := bench.FlushAll(v.suite.Dir); err != nil {
			return err
		}
		if v.suite.Forget == nil {
			return nil
		}
		forgot, err := v.suite.Forget()
		if forgot {
			state = Cold
		}
		return err
	})
	if err == nil {
		err = v.login(ctx)
	}
	if err == nil {
		err = v.quiet(ctx)
	}
	return state, err
}

// loginConns is how many clients log in at once, loginBatch how many sessions are looked at
// together.
const loginConns, loginBatch = 10, 200

// logins measures whole sessions: connect, LOGIN, SELECT, LOGOUT. Many at once find the
// mailbox open; one that is alone, as that of a client that looks for mail now and then, does not.
func (v *visit) logins(ctx context.Context) error {
	many := task{name: opLogin, do: func() error { return v.manyLogins(ctx, loginBatch, loginConns) }}
	if err := many.do(); err != nil { // processes are there, and passwords known
		return err
	}
	if v.wants(Warm, keyLogin) {
		if err := v.measure(ctx, Warm, many, loginBatch); err != nil {
			return err
		}
	}
	v.imap.close()
	if !v.wants(Warm, keyAlone) {
		return nil
	}
	return v.measure(ctx, Warm, task{name: opAlone, do: func() error { return v.manyLogins(ctx, loginBatch/20, 1) }}, loginBatch/20)
}

// manyLogins are n sessions, conns of them at once.
func (v *visit) manyLogins(ctx context.Context, n, conns int) error {
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for range conns {
		wg.Go(func() {
			for range n / conns {
				if err := v.oneLogin(ctx); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (v *visit) oneLogin(ctx context.Context) error {
	c, err := loginIMAP(ctx, v.srv.IMAP, v.srv.User, v.srv.Password)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.selectInbox(v.count); err != nil {
		return err
	}
	_, err = c.do("LOGOUT")
	return err
}

// warmUp has the server read the mailbox, and finds out what it uses at rest.
func (v *visit) warmUp(ctx context.Context) error {
	if err := v.selected(); err != nil {
		return err
	}
	for _, t := range v.fetches()[:2] {
		if err := t.do(); err != nil {
			return err
		}
	}
	return v.resting(ctx)
}

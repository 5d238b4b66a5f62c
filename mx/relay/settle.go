package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"waypost/mx/spool/entries"
)

// reported is a recipient and what is said of it.
type reported struct {
	Recipient
	outcome
}

// settle makes outcomes durable: first who is to hear of them, then what is
// left, so that a crash reports or buries twice rather than never. What cannot
// be reported or buried stays.
func (a *attempt) settle(res outcomes) {
	now := time.Now()
	age := now.Sub(a.env.started())
	expired := age >= a.q.cfg.GiveUpAfter
	warn := age >= a.q.cfg.WarnAfter && a.env.Reports
	changed := a.dirty != nil
	var next []Recipient
	var lost, relayed, delayed []reported
	for _, r := range a.env.Recipients {
		o, ok := res[r.To]
		if !ok {
			next = append(next, r)
			continue
		}
		if o.verdict == later && expired {
			o = outcome{verdict: failed, status: "4.4.7", text: "Delivery time expired: " + o.text, remote: o.remote}
		}
		r.Error = o.String()
		switch o.verdict {
		case delivered:
			changed = true
			a.log.Info("relay recipient done", "rcpt", r.To, "answer", o.text)
			if a.env.Reports && r.wants(NotifySuccess) && !o.passed {
				relayed = append(relayed, reported{r, o})
			}
		case failed:
			changed = true
			lost = append(lost, reported{r, o})
		default:
			if warn && !r.Warned && r.wants(NotifyDelay) {
				delayed = append(delayed, reported{r, o})
			}
			next = append(next, r)
		}
	}
	a.tell(actionRelayed, relayed)
	if len(delayed) > 0 && a.tell(actionDelayed, delayed) {
		changed = true
		for i, r := range next {
			next[i].Warned = r.Warned || slices.ContainsFunc(delayed, func(d reported) bool { return d.To == r.To })
		}
	}
	next = append(next, a.lose(lost)...)
	a.env.Recipients = next
	if changed {
		a.write()
	}
}

// tell reports what is no failure; that it cannot be is logged.
func (a *attempt) tell(what action, rs []reported) bool {
	if len(rs) == 0 {
		return false
	}
	if err := a.report(what, rs); err != nil {
		a.log.Error("no report can be made", "action", what, "err", err)
		return false
	}
	return true
}

// lose reports or buries recipients who failed, and gives those for whom
// neither could be done. A reply that a program made is nobody's mail: forged
// senders have no mailbox, so failures are usual and only logged and counted.
func (a *attempt) lose(lost []reported) (kept []Recipient) {
	if len(lost) == 0 {
		return nil
	}
	for _, l := range lost {
		a.log.Warn("relay recipient failed", "rcpt", l.To, "user", a.env.User, "kind", a.env.Kind, "err", l.outcome)
	}
	var err error
	if a.env.Reports {
		wanted := slices.DeleteFunc(slices.Clone(lost), func(l reported) bool { return !l.wants(NotifyFailure) })
		if len(wanted) > 0 {
			err = a.report(actionFailed, wanted)
		}
	} else if !a.env.Kind.Automatic() {
		err = a.bury(lost)
	}
	if err == nil {
		return nil
	}
	a.log.Error("a failure can neither be reported nor kept as a dead letter: it is tried again", "err", err)
	for _, l := range lost {
		kept = append(kept, l.Recipient)
	}
	return kept
}

// bury leaves a dead letter: never to a bounce, always to the operator.
func (a *attempt) bury(lost []reported) error {
	q := a.q
	q.mu.Lock()
	have := q.dead[a.env.ID]
	busy := q.changing[a.env.ID]
	q.mu.Unlock()
	if busy {
		return ErrBusy
	}
	e := a.env
	e.Recipients = nil
	if have != nil {
		e.Recipients = slices.Clone(have.Recipients)
	}
	for _, l := range lost {
		e.Recipients = append(e.Recipients, l.Recipient)
	}
	e.Recipients = distinct(e.Recipients)
	if err := q.store.Copy(entries.Queue, entries.Dead, e.ID, e); err != nil {
		return err
	}
	q.mu.Lock()
	q.dead[e.ID] = &e
	q.mu.Unlock()
	q.met.deadLetters.Add(float64(len(lost)))
	a.log.Error("ALARM: dead letter: mail that left has failed and nobody may be told", "from", a.env.From, "rcpts", len(lost), "reason", lost[0].outcome)
	return nil
}

// write brings the entry on disk to what is left of it; with nobody left it
// ends, its id remembered first.
func (a *attempt) write() {
	a.dirty = nil
	if len(a.env.Recipients) > 0 {
		a.dirty = a.q.store.Write(entries.Queue, a.env.ID, a.env)
	} else {
		a.dirty = a.q.endOf(a.env)
	}
	if a.dirty != nil {
		a.log.Error("relay entry cannot be changed", "err", a.dirty)
	}
}

// endOf removes an entry of the queue.
func (q *Queue) endOf(e Envelope) error {
	if e.Remember {
		if err := q.done.add(e.ID, time.Now()); err != nil {
			return err
		}
	}
	return q.store.Remove(entries.Queue, e.ID)
}

// holdSpread is over how long those who were held back come again.
const holdSpread = 5 * time.Second

// finish puts the item back into a lane, or forgets it.
func (q *Queue) finish(it *item, a *attempt, id laneID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.env, it.running, it.dirty = a.env, false, a.dirty != nil
	if len(it.env.Recipients) == 0 && !it.dirty {
		delete(q.queue, it.env.ID)
		return
	}
	for _, r := range it.env.Recipients {
		if r.Error != "" {
			it.lastErr = r.Error
		}
	}
	if a.dirty != nil {
		it.lastErr = a.dirty.Error()
	}
	now := time.Now()
	switch {
	case it.forced, a.soon && !it.dirty:
		it.next = now
	case !a.hold.IsZero():
		it.next = a.hold.Add(rand.N(holdSpread))
	default:
		it.attempts++
		it.next = now.Add(backoff(it.attempts))
	}
	if end := it.env.started().Add(q.cfg.GiveUpAfter); end.After(now) && it.next.After(end) {
		it.next = end
	}
	it.lane = it.env.lane()
	if id == inward && it.env.anyOutside() {
		it.lane = outward
	}
	q.push(it)
}

// Retry has an entry tried now; a dead one is brought back, and its time begins
// anew. ErrNotFound, ErrBusy.
func (q *Queue) Retry(id string) error {
	q.mu.Lock()
	it, dead := q.queue[id], q.dead[id]
	switch {
	case it == nil && dead == nil:
		q.mu.Unlock()
		return fmt.Errorf("retry %s: %w", id, ErrNotFound)
	case dead != nil && (it != nil && it.running || q.changing[id]):
		q.mu.Unlock()
		return fmt.Errorf("retry %s: %w", id, ErrBusy)
	case dead == nil:
		q.hosts.probe() // before it is due
		q.force(it)
		q.mu.Unlock()
		return nil
	}
	q.changing[id] = true
	if it != nil {
		q.unschedule(it)
	}
	q.mu.Unlock()
	err := q.revive(it, *dead)
	if err != nil {
		return fmt.Errorf("retry %s: %w", id, err)
	}
	return nil
}

// revive brings a dead entry back into the queue: there first, so that a crash
// leaves both rather than none.
func (q *Queue) revive(it *item, dead Envelope) error {
	e := dead
	e.Revived = time.Now()
	if it != nil {
		e.Recipients = distinct(slices.Concat(it.env.Recipients, dead.Recipients))
	}
	err := q.store.Copy(entries.Dead, entries.Queue, e.ID, e)
	var rmErr error
	if err == nil {
		rmErr = q.store.Remove(entries.Dead, e.ID)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.changing, e.ID)
	if err == nil && rmErr == nil {
		delete(q.dead, e.ID)
	}
	switch {
	case it != nil:
		it.running = false
		if err == nil {
			it.env, it.dirty = e, false
			it.lane, it.next = e.lane(), time.Now()
		}
		q.push(it)
	case err == nil:
		q.insert(&item{env: e, index: -1}, 0)
	}
	return errors.Join(err, rmErr)
}

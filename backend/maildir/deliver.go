package maildir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
)

// Deliver is mailbox.Box's. The record is written under the user's lock and
// waited for without it, so that deliveries to one user share flushes as well;
// the message turns up in its folders when the record is durable.
func (b *box) Deliver(ctx context.Context, d mailbox.Delivery) error {
	var bytes int64
	for _, p := range d.Places {
		bytes += place(d, p).Size()
	}
	return b.change(ctx, "deliver", bytes, func() (*commit, error) {
		// The last moment to turn back: from here on it is brief.
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return b.a.deliver(d)
	})
}

// place is the message that goes to p.
func place(d mailbox.Delivery, p mailbox.Place) mailbox.Staged {
	if p.Message != nil {
		return p.Message
	}
	return d.Message
}

// valid refuses what could not be brought into the files.
func valid(d mailbox.Delivery) error {
	bad := d.ID == "" || len(d.ID) > deliveries.MaxKey
	for _, m := range d.Memories {
		bad = bad || m.Key == "" || len(m.Key) > deliveries.MaxMemory
	}
	for _, o := range d.Outbound {
		bad = bad || o.ID == "" || o.Message == nil
	}
	if bad {
		return fmt.Errorf("delivery without an id, or with a key that is too long: %w", fs.ErrInvalid)
	}
	return nil
}

func (a *Account) deliver(d mailbox.Delivery) (*commit, error) {
	ids, err := a.deliveryLog()
	if err != nil {
		return nil, err
	}
	if c := a.arriving[d.ID]; c != nil {
		return c, nil // on its way: whoever asks again waits with it
	}
	if err := valid(d); err != nil {
		return nil, err
	}
	if err := a.unstick(); err != nil {
		return nil, err
	}
	if _, done, err := ids.Find(d.ID); done || err != nil {
		return nil, err
	}
	for _, key := range d.Assumes {
		if is, err := a.remembers(key); is || err != nil {
			return nil, cmp.Or(err, mailbox.ErrMemory)
		}
	}
	t := delivery{a: a, c: &commit{}, at: a.o.Now()}
	if err := t.plan(d); err != nil {
		t.release()
		return nil, err
	}
	if !d.Force {
		if err := a.fits(mailbox.Inbox, t.c.bytes, t.c.messages); err != nil {
			t.release()
			return nil, err
		}
	}
	t.commit(d.ID)
	return t.c, nil
}

// delivery is a Delivery being made a commit.
type delivery struct {
	a       *Account
	c       *commit
	at      time.Time
	ops     []op
	touched []string
	steps   []func() error
	copies  []copyIn
	// keys are those of its memories.
	keys []string
	held []*staged
	// given are letters of keywords that its copies have; promises are the folders
	// that have promised a UID to one.
	given    claims
	promises []*folder
}

// plan decides where everything goes.
func (t *delivery) plan(d mailbox.Delivery) error {
	for _, p := range d.Places {
		s, err := own(place(d, p))
		if err != nil {
			return err
		}
		if err := t.put(s, p); err != nil {
			return err
		}
	}
	for _, m := range d.Memories {
		memories, err := t.a.memoryLog()
		if err != nil {
			return err
		}
		t.ops = append(t.ops, op{kind: opMemory, key: m.Key, at: m.Until})
		t.touched = append(t.touched, filepath.Join(t.a.o.Root, memoriesName))
		t.keys = append(t.keys, m.Key)
		t.steps = append(t.steps, func() error { return memories.Remember(m.Key, m.Until, t.at) })
	}
	for _, o := range d.Outbound {
		if err := t.send(o); err != nil {
			return err
		}
	}
	return nil
}

// put plans one copy.
func (t *delivery) put(s *staged, p mailbox.Place) error {
	a := t.a
	rel, err := a.deliveryFolder(p)
	if err != nil {
		return err
	}
	// Two places that come to one folder, such as one that is not there and INBOX,
	// are one copy.
	to := copyIn{rel, s}
	if slices.Contains(t.copies, to) {
		return nil
	}
	t.copies = append(t.copies, to)
	if err := t.hold(s); err != nil {
		return err
	}
	m := arrival{s: s, o: op{
		kind: opCreate, dir: rel, base: name.WithSizes(a.names.Next(), s.size, s.wire), inNew: true, at: s.arrived(), body: s.ref(),
	}}
	o := &m.o
	f := a.known(rel)
	if p.Flags.System != 0 || len(p.Flags.Keywords) > 0 {
		// Flags have their letters in the folder's own table, and their place in cur.
		if err := f.readyFor(p.Flags); err != nil {
			return err
		}
		words, beyond, err := f.encode(p.Flags.Keywords, true, &t.given)
		if err != nil && !errors.Is(err, ErrTooManyKeywords) && !errors.Is(err, keywords.ErrBadKeyword) {
			return err
		}
		o.letters, o.inNew = name.Letters(systemLetters(p.Flags.System)+words), false
		if err := t.number(f, &m, beyond); err != nil {
			return err
		}
	}
	// Once it is in the journal it must find its place.
	sub := filepath.Join(a.dir(rel), refOf(o.inNew, ""))
	if there, err := a.finds(sub, t.at); err != nil {
		return err
	} else if !there {
		if err := a.completeFolder(rel); err != nil {
			return err
		}
	}
	t.touched = append(t.touched, sub+"/"+o.file(), sub)
	t.ops = append(t.ops, *o)
	t.c.bytes += s.size
	t.c.messages++
	if o.uid != 0 {
		t.bring(f, m)
		return nil
	}
	t.steps = append(t.steps, func() error {
		before := f.stampsNow()
		if err := a.place(s, f.rel, refOf(o.inNew, o.file()), o.at); err != nil {
			return err
		}
		f.arrived(m, 0, before)
		return nil
	})
	return nil
}

// number gives a copy with keywords beyond those that have letters its UID at
// once: only under one can the folder's state have them.
func (t *delivery) number(f *folder, m *arrival, words []string) error {
	if len(words) == 0 {
		return nil
	}
	uid, err := f.promise(1)
	if err != nil {
		return err
	}
	t.promises = append(t.promises, f)
	m.o.uid, m.marks.words = uint32(uid), words
	return nil
}

// bring plans the steps of a copy that has a UID.
func (t *delivery) bring(f *folder, m arrival) {
	save := f.saveOp(mailbox.UID(m.o.uid), 1)
	t.ops = append(t.ops, f.markOp(m.o.base, m.marks), save)
	t.touched = append(t.touched, f.bookkeeping()...)
	one := appending{f: f, list: []arrival{m}, save: save}
	t.steps = append(t.steps, one.apply)
}

const (
	// seenAge is how long a folder for deliveries is believed to be there still: it
	// may go at any time anyway, and apply looks again.
	seenAge = time.Second
	// maxSeen is how many are remembered.
	maxSeen = 8
)

// finds tells whether path is a folder, or was one a moment ago.
func (a *Account) finds(path string, now time.Time) (bool, error) {
	if at, known := a.seen[path]; known && now.Sub(at).Abs() < seenAge {
		return true, nil
	}
	there, err := isDirectory(a.fs, path)
	if there {
		if len(a.seen) >= maxSeen {
			clear(a.seen)
		}
		a.seen[path] = now
	}
	return there, err
}

// copyIn is a message in a folder.
type copyIn struct {
	rel string
	s   *staged
}

// send plans an outbound message.
func (t *delivery) send(o mailbox.Outbound) error {
	s, err := own(o.Message)
	if err != nil {
		return err
	}
	if t.a.o.Outbox == nil {
		return errors.New("this mailbox has no way out")
	}
	if err := t.hold(s); err != nil {
		return err
	}
	at := s.arrived()
	t.ops = append(t.ops, op{kind: opOutbound, out: o, at: at, body: s.ref()})
	t.touched = append(t.touched, t.a.o.Outbox.Paths(t.a.o.User, o.ID)...)
	t.steps = append(t.steps, func() error {
		return t.a.o.Outbox.Put(t.a.o.User, o, func(path string) error { return s.linkTo(path, at) })
	})
	return nil
}

// hold keeps a message to the end of the delivery.
func (t *delivery) hold(s *staged) error {
	if err := s.hold(); err != nil {
		return err
	}
	t.held = append(t.held, s)
	return nil
}

// commit journals what was planned.
func (t *delivery) commit(id string) {
	a, c := t.a, t.c
	t.ops = append(t.ops, op{kind: opDelivered, key: id, at: t.at})
	t.touched = append(t.touched, filepath.Join(a.o.Root, deliveriesName))
	steps := append(t.steps, func() error { return a.ids.Later(deliveries.Entry{At: t.at, Key: id}) })
	c.late = true
	c.apply = func() error {
		for len(steps) > 0 {
			if err := steps[0](); err != nil {
				return err
			}
			steps = steps[1:]
		}
		a.addUsageLate(c.bytes, c.messages)
		delete(a.arriving, id)
		for _, key := range t.keys {
			if a.learning[key]--; a.learning[key] == 0 {
				delete(a.learning, key)
			}
		}
		t.release()
		return nil
	}
	c.ops, t.promises = t.ops, nil
	c.record = a.log(a.epoch, t.ops, t.touched)
	for _, s := range t.held {
		s.referred(c.record.last())
	}
	a.arriving[id] = c
	for _, key := range t.keys {
		a.learning[key]++
	}
	a.push(c)
}

// release gives the messages back, and UIDs that were not used.
func (t *delivery) release() {
	for _, f := range t.promises {
		f.promised--
	}
	t.promises = nil
	for _, s := range t.held {
		s.Discard()
	}
	t.held = nil
}

// Remembers is mailbox.Box's.
func (b *box) Remembers(key string) (is bool, err error) {
	err = b.do("memory", func() error {
		is, err = b.a.remembers(key)
		return err
	})
	return is, err
}

// remembers tells whether a key is remembered, or on its way to be.
func (a *Account) remembers(key string) (bool, error) {
	if a.learning[key] > 0 {
		return true, nil
	}
	memories, err := a.memoryLog()
	if err != nil {
		return false, err
	}
	return memories.Remembered(key, a.o.Now())
}

// deliveryFolder decides where a copy goes.
func (a *Account) deliveryFolder(p mailbox.Place) (rel string, err error) {
	if p.Folder == "" {
		return "", nil
	}
	rel, _, err = a.lookup(p.Folder)
	if errors.Is(err, mailbox.ErrNoFolder) && (p.Create || a.o.CreateFolderOnDelivery) {
		if rel, err = a.makeFolder(p.Folder, p.Use); errors.Is(err, mailbox.ErrUse) {
			rel, err = a.makeFolder(p.Folder, "")
		}
	}
	for _, inbox := range []error{mailbox.ErrBadName, mailbox.ErrNoFolder, mailbox.ErrTooManyFolders} {
		if errors.Is(err, inbox) {
			return "", nil
		}
	}
	return rel, err
}

// known gives the folder of a directory, as the memory has it; it need not be
// loaded.
func (a *Account) known(rel string) *folder {
	if f := a.folders[rel]; f != nil {
		return f
	}
	folder, ok := folderOf(rel)
	if !ok {
		folder = mailbox.Inbox
	}
	return a.folderAt(rel, folder)
}

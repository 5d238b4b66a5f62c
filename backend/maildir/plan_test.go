package maildir

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"waypost/backend/mailbox"
)

// change is something done to a mailbox. stages are what it comes to in the
// model: whole if it is acknowledged; else after some of them.
type change struct {
	name   string
	do     func() error
	stages []func(m *model)
	// between is the model while it is under way, if that is not one of the stages.
	between func(m *model)
	// partial: an error may leave it half done, or done.
	partial bool
	// makesFolder: without descriptors one is made and taken back, and neither lasts:
	// a crash may bring it back, empty.
	makesFolder bool
	id          string
}

// after are the models of what a change that was under way can have come to.
func (c *change) after(m *model) []*model {
	all := []*model{m.clone()}
	if c.between != nil {
		between := m.clone()
		c.between(between)
		return append(all, between)
	}
	for _, stage := range c.stages {
		next := all[len(all)-1].clone()
		stage(next)
		all = append(all, next)
	}
	slices.Reverse(all)
	return all
}

// acknowledged applies it to the model.
func (u *worldUser) acknowledged(c *change) {
	for _, stage := range c.stages {
		stage(u.model)
	}
	if c.id != "" && !slices.Contains(u.ids, c.id) {
		u.ids = append(u.ids, c.id)
	}
}

var worldFolders = []string{"INBOX", "A", "A/B", "C", "C/D"}

// pick chooses.
func pick[T any](n int, from []T) T { return from[n%len(from)] }

// worldFlags makes flags of a number.
func worldFlags(n int) mailbox.Flags {
	f := mailbox.Flags{System: mailbox.System(n % 32)}
	if n%3 == 0 {
		f.Keywords = []string{fmt.Sprint("k", n%4)}
	}
	if n%10 == 7 { // more than there are letters
		for i := range 20 + n%20 {
			f.Keywords = append(f.Keywords, fmt.Sprintf("w%02d", i))
		}
	}
	return f
}

// plan makes a change of a number; nil if there is nothing to do.
func (w *world) plan(u *worldUser, what string, n int) (*change, error) {
	rng := rand.New(rand.NewPCG(uint64(n), 3))
	folders := u.model.names()
	switch what {
	case "deliver":
		return w.planDelivery(u, rng)
	case "append":
		return w.planAppend(u, pick(rng.IntN(100), folders), rng)
	case "create":
		name, use := pick(1+rng.IntN(len(worldFolders)-1), worldFolders), pick(rng.IntN(100), worldUses)
		if u.model.folders[name] != nil || use != "" && u.model.used(use) {
			return nil, nil
		}
		return &change{name: "create " + name + use, makesFolder: true, do: func() error { return u.box.CreateFolder(name, use) },
			stages: []func(*model){func(m *model) {
				if m.create(name); use != "" {
					m.folders[name].notes[mailbox.UseEntry] = use
				}
			}}}, nil
	case "annotate":
		return u.planMetadata(rng), nil
	case "rights":
		folder, rights := pick(rng.IntN(100), folders), pick(rng.IntN(3), []mailbox.Rights{"", "lr", "lrs"})
		identifier := fmt.Sprint("user", rng.IntN(3))
		return &change{name: "rights " + folder, do: func() error { return u.box.SetACL(folder, identifier, rights) },
			stages: []func(*model){func(m *model) {
				if delete(m.folders[folder].notes, identifier); rights != "" {
					m.folders[folder].notes[identifier] = string(rights)
				}
			}}}, nil
	case "delete":
		name := pick(rng.IntN(100), folders)
		if name == mailbox.Inbox {
			return nil, nil
		}
		return &change{name: "delete " + name, do: func() error { return u.box.DeleteFolder(name) },
			stages: []func(*model){func(m *model) { delete(m.folders, name) }}}, nil
	case "rename":
		return u.planRename(pick(rng.IntN(100), folders), pick(1+rng.IntN(len(worldFolders)-1), worldFolders)), nil
	case "subscribe":
		name, on := pick(rng.IntN(100), worldFolders), rng.IntN(2) == 0
		return &change{name: "subscribe", partial: true, do: func() error { return u.box.Subscribe(name, on) },
			stages: []func(*model){func(m *model) {
				if delete(m.subs, name); on {
					m.subs[name] = true
				}
			}}}, nil
	}
	return w.planOnMessages(u, what, rng)
}

var worldUses = []string{"", "", `\Sent`, `\Trash`}

// planMetadata changes one or two entries, and sometimes the special use.
func (u *worldUser) planMetadata(rng *rand.Rand) *change {
	folder := pick(rng.IntN(100), append(u.model.names(), ""))
	set := map[string]*string{}
	for range 1 + rng.IntN(2) {
		var value *string
		if rng.IntN(4) > 0 {
			text := fmt.Sprint("value ", rng.IntN(1000), strings.Repeat("x", rng.IntN(2000)))
			value = &text
		}
		set[fmt.Sprint("/private/", rng.IntN(4))] = value
	}
	if use := pick(rng.IntN(100), worldUses); folder != "" && folder != mailbox.Inbox && rng.IntN(3) == 0 && (use == "" || !u.model.used(use)) {
		set[mailbox.UseEntry] = &use
	}
	return &change{name: "annotate " + folder, do: func() error { return u.box.SetMetadata(folder, set) },
		stages: []func(*model){func(m *model) {
			for name, value := range set {
				notes := m.annotated(folder)
				if delete(notes, name); value != nil && (*value != "" || name != mailbox.UseEntry) {
					notes[name] = *value
				}
			}
		}}}
}

func (w *world) planDelivery(u *worldUser, rng *rand.Rand) (*change, error) {
	if len(u.ids) > 0 && rng.IntN(6) == 0 {
		id := pick(rng.IntN(100), u.ids)
		return w.delivery(u, id, w.newContent(), nil, rng)
	}
	w.ids++
	places := make([]mailbox.Place, 1+rng.IntN(12)/8+rng.IntN(12)/9)
	for i := range places {
		places[i] = mailbox.Place{Folder: pick(rng.IntN(100), worldFolders), Create: rng.IntN(3) == 0}
		if rng.IntN(4) == 0 {
			places[i].Flags = worldFlags(rng.IntN(100))
		}
	}
	return w.delivery(u, fmt.Sprint("id-", w.ids), w.newContent(), places, rng)
}

// delivery plans one; without places its id is one that was delivered before.
func (w *world) delivery(u *worldUser, id string, content int, places []mailbox.Place, rng *rand.Rand) (*change, error) {
	again := places == nil
	if again {
		places = []mailbox.Place{{}}
	}
	s, err := w.stage(content)
	if err != nil {
		return nil, err
	}
	d := mailbox.Delivery{ID: id, Message: s, Places: places, Memories: []mailbox.Memory{{Key: "m " + id, Until: time.Now().Add(time.Hour)}}}
	if rng.IntN(4) == 0 {
		d.Outbound = []mailbox.Outbound{{ID: "o " + id, Kind: "redirect", To: []string{"x@example.test"}, Message: s}}
	}
	c := &change{name: "deliver " + id, id: id, do: func() error {
		defer s.Discard()
		return u.box.Deliver(context.Background(), d)
	}}
	if again {
		return c, nil
	}
	there := maps.Clone(u.model.folders)
	var to []mailbox.Place
	for _, p := range places {
		if there[p.Folder] == nil && p.Create {
			there[p.Folder], c.makesFolder = newModelFolder(), true
			c.stages = append(c.stages, func(m *model) { m.create(p.Folder) })
		}
		if there[p.Folder] == nil {
			p.Folder = mailbox.Inbox
		}
		if slices.ContainsFunc(to, func(one mailbox.Place) bool { return one.Folder == p.Folder }) {
			continue // one copy
		}
		to = append(to, p)
	}
	c.stages = append(c.stages, func(m *model) {
		for _, p := range to {
			m.add(p.Folder, modelMsg{content: content, flags: p.Flags})
		}
	})
	return c, nil
}

// planAppend appends up to four messages.
func (w *world) planAppend(u *worldUser, folder string, rng *rand.Rand) (*change, error) {
	var all []mailbox.NewMessage
	var msgs []modelMsg
	for range 1 + rng.IntN(8)/2 {
		m := modelMsg{content: w.newContent(), flags: worldFlags(rng.IntN(100))}
		var date time.Time
		if rng.IntN(2) == 0 {
			date = time.Unix(1e9+int64(m.content), 0)
			m.date = date.UnixNano()
		}
		s, err := w.stage(m.content)
		if err != nil {
			for _, m := range all {
				m.Message.Discard()
			}
			return nil, err
		}
		all, msgs = append(all, mailbox.NewMessage{Message: s, Flags: m.flags, Date: date}), append(msgs, m)
	}
	return &change{
		name: fmt.Sprint("append ", len(all), " ", folder),
		do: func() error {
			r, err := u.box.Append(folder, all)
			for i, uid := range r.UIDs {
				msgs[i].uid = uid
			}
			for _, m := range all {
				m.Message.Discard()
			}
			return err
		},
		stages: []func(*model){func(m *model) {
			for _, msg := range msgs {
				m.add(folder, msg)
			}
		}},
	}, nil
}

func (u *worldUser) planRename(from, to string) *change {
	if u.model.folders[to] != nil || to == from || strings.HasPrefix(to, from+"/") {
		return nil
	}
	c := &change{name: "rename " + from + " to " + to, makesFolder: from == mailbox.Inbox, do: func() error { return u.box.RenameFolder(from, to) }}
	if from != mailbox.Inbox {
		for name := range u.model.folders {
			if rest, is := strings.CutPrefix(name, from+"/"); is && u.model.folders[to+"/"+rest] != nil {
				return nil
			}
		}
		c.stages = []func(*model){func(m *model) { m.rename(from, to) }}
		return c
	}
	c.stages = []func(*model){func(m *model) { m.create(to) }, func(m *model) {
		for _, msg := range m.folders[mailbox.Inbox].msgs {
			msg.uid, msg.saved = 0, 0
			m.add(to, msg)
		}
		m.folders[mailbox.Inbox].msgs = nil
	}}
	return c
}

// planOnMessages plans what takes UIDs: of a folder that was just looked at.
func (w *world) planOnMessages(u *worldUser, what string, rng *rand.Rand) (*change, error) {
	from := pick(rng.IntN(100), u.model.names())
	if err := w.check(u, false, u.model); err != nil {
		return nil, fmt.Errorf("before %s: %w", what, err)
	}
	h, err := u.box.Folder(from)
	if err != nil {
		return nil, err
	}
	snap, err := h.Snapshot()
	if err != nil {
		return nil, err
	}
	var some []mailbox.UID
	for _, m := range snap.Messages.All() {
		if rng.IntN(2) == 0 {
			some = append(some, m.UID)
		}
	}
	if len(some) == 0 {
		return nil, nil
	}
	to := pick(rng.IntN(100), u.model.names())
	c := &change{name: fmt.Sprint(what, " ", from, " ", to, " ", some)}
	switch what {
	case "flags":
		u.planFlags(c, h, some, worldFlags(rng.IntN(100)), mailbox.FlagOp(rng.IntN(3)))
	case "expunge":
		c.partial = true
		c.do = func() error { _, err := h.Expunge(some); return err }
		c.stages = []func(*model){func(m *model) { m.folders[from].remove(some) }}
		c.between = func(m *model) {
			for _, uid := range some {
				m.folders[from].find(uid).optional = true
			}
		}
	case "copy", "move":
		var r mailbox.CopyResult
		c.do = func() (err error) {
			if what == "copy" {
				r, err = h.Copy(some, to)
			} else {
				r, err = h.Move(some, to)
			}
			return err
		}
		c.stages = []func(*model){func(m *model) {
			f := m.folders[from]
			var list []modelMsg
			if what == "copy" {
				for _, uid := range some {
					list = append(list, *f.find(uid))
				}
			} else {
				list = f.remove(some)
			}
			for i, msg := range list {
				msg.saved = 0
				if msg.uid = 0; r.Dest != nil {
					msg.uid = r.Dest[i]
				}
				m.add(to, msg)
			}
		}}
	}
	return c, nil
}

func (u *worldUser) planFlags(c *change, h mailbox.Folder, some []mailbox.UID, flags mailbox.Flags, how mailbox.FlagOp) {
	c.partial = true
	c.do = func() error { _, err := h.SetFlags(some, mailbox.FlagChange{Op: how, Flags: flags}); return err }
	result := func(was mailbox.Flags) mailbox.Flags {
		now := flags
		switch how {
		case mailbox.FlagsAdd:
			now = mailbox.Flags{System: was.System | flags.System, Keywords: slices.Concat(was.Keywords, flags.Keywords)}
		case mailbox.FlagsRemove:
			now = mailbox.Flags{System: was.System &^ flags.System, Keywords: slices.DeleteFunc(slices.Clone(was.Keywords), func(k string) bool {
				return slices.Contains(flags.Keywords, k)
			})}
		}
		now.Keywords = slices.Compact(slices.Sorted(slices.Values(now.Keywords)))
		return now
	}
	c.stages = []func(*model){func(m *model) {
		for _, uid := range some {
			msg := m.folders[h.Name()].find(uid)
			msg.flags = result(msg.flags)
		}
	}}
	c.between = func(m *model) {
		for _, uid := range some {
			msg := m.folders[h.Name()].find(uid)
			now := result(msg.flags)
			msg.or = &now
		}
	}
}

package imap

import (
	"waypost/backend/imap/fetch"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// errOverflow: more is asked for than the server will do.
func errOverflow() error { return no("NOTIFICATIONOVERFLOW", "too many mailboxes or events") }

// notifyArgs are NOTIFY's while they are read.
type notifyArgs struct {
	n *notify
	// status: STATUS was asked for; any: there was a selected or selected-delayed.
	status, any bool
	unknown     bool // an event that there is not
	names       int
}

// notifyCommand implements NOTIFY (RFC 5465, Section 3.1).
func (s *session) notifyCommand(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	a := notifyArgs{n: &notify{}}
	set := c.TakeName("SET")
	switch {
	case set:
		if err := s.notifySet(c, &a); err != nil {
			return err
		}
	case !c.TakeName("NONE"):
		return syntax.Syntax("expected SET or NONE")
	}
	if err := c.End(); err != nil {
		return err
	}
	if a.unknown {
		return no(badEvent, "an event that is not supported")
	}
	if !set {
		s.notify = a.n
		return nil
	}
	if s.view != nil {
		// What has piled up is told whatever is to be told from here on.
		was := s.notify
		s.notify = nil
		err := s.sync(s.notify.telling(true))
		s.notify = was
		if err != nil {
			return err
		}
	}
	if err := s.begin(&a); err != nil {
		return err
	}
	s.notify = a.n
	if a.n.fetches() && a.n.fetch.ModSeq() {
		s.enabled.condstore = true
	}
	s.watcher.start(s)
	return nil
}

func (s *session) notifySet(c *cmd, a *notifyArgs) error {
	if err := c.SP(); err != nil {
		return err
	}
	if c.TakeName("STATUS") {
		a.status = true
		if err := c.SP(); err != nil {
			return err
		}
	}
	for groups := 1; ; groups++ {
		if groups > maxGroups || a.names > maxNames {
			return errOverflow()
		}
		if err := s.notifyGroup(c, a); err != nil {
			return err
		}
		if !c.Take(' ') {
			return nil
		}
	}
}

// notifyGroup takes an event group.
func (s *session) notifyGroup(c *cmd, a *notifyArgs) error {
	if err := c.Expect('('); err != nil {
		return err
	}
	name, err := c.Name()
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	g := group{}
	switch name {
	case "SELECTED", "SELECTED-DELAYED":
		if a.any {
			return bad("only one group can be for the selected mailbox")
		}
		a.any, a.n.delayed = true, name == "SELECTED-DELAYED"
		a.n.selected, err = s.notifyEvents(c, a, true)
		if err == nil {
			err = c.Expect(')')
		}
		return err
	case "INBOXES", "PERSONAL":
		g.filter = filterPersonal
	case "SUBSCRIBED":
		g.filter = filterSubscribed
	case "SUBTREE", "MAILBOXES":
		g.filter = filterMailboxes
		if name == "SUBTREE" {
			g.filter = filterSubtree
		}
		g.names = make(map[string]struct{})
		err = c.One(func() error {
			name, err := c.Mailbox()
			g.names[folderName(name)] = struct{}{}
			a.names++
			return err
		})
		if err == nil {
			err = c.SP()
		}
	default:
		err = syntax.Syntax("unknown mailbox specifier")
	}
	if err == nil {
		g.events, err = s.notifyEvents(c, a, false)
	}
	if err == nil {
		err = c.Expect(')')
	}
	if err == nil && g.events != 0 {
		a.n.groups = append(a.n.groups, g)
		a.n.all |= g.events
	}
	return err
}

// notifyEvents takes the events of a group. They may stand without parentheses, as in an
// example of RFC 5465, Section 3.1.
func (s *session) notifyEvents(c *cmd, a *notifyArgs, selected bool) (event, error) {
	var all event
	if c.TakeName("NONE") {
		return 0, nil
	}
	item := func() error {
		name, err := c.Name()
		if err != nil {
			return err
		}
		e := eventBit(name)
		a.unknown = a.unknown || e == 0
		if selected && e&^messageEvents != 0 {
			return bad("the selected mailbox has message events only")
		}
		if name == "ANNOTATIONCHANGE" {
			e = flagChange // what it needs beside it is the same
		}
		all |= e
		if name == "MESSAGENEW" && c.Ahead(2) == " (" {
			if !selected {
				return bad("attributes are for the selected mailbox only")
			}
			return s.notifyFetch(c, a.n)
		}
		return nil
	}
	var err error
	if c.Peek() == '(' {
		err = c.List(false, item)
	} else {
		for err = item(); err == nil && c.Take(' '); err = item() {
		}
	}
	if err != nil {
		return 0, err
	}
	// RFC 5465, Section 5.
	both := messageNew | messageExpunge
	if m := all & messageEvents; m != 0 && m&both != both {
		return 0, bad("MessageNew and MessageExpunge must be given together, and with FlagChange")
	}
	return all, nil
}

// notifyFetch takes the data items that are to be told of new messages.
func (s *session) notifyFetch(c *cmd, n *notify) (err error) {
	if err := c.SP(); err != nil {
		return err
	}
	n.fetch, err = fetch.Parse(c.Parser, fetch.Options{UIDOnly: s.enabled.uidOnly, Buffers: s.srv.bodies})
	if err == nil && !s.enabled.uidOnly {
		n.fetch.AddUID()
	}
	return err
}

// learnOthers learns what is not the user's own.
func (n *notify) learnOthers(b mailbox.Box) {
	n.others = nil
	for _, ns := range b.Namespaces() {
		if ns.Kind != mailbox.Personal {
			n.others = append(n.others, ns.Prefix)
		}
	}
}

// begin looks at the folders for the first time.
func (s *session) begin(a *notifyArgs) error {
	n := a.n
	if len(n.groups) == 0 {
		return nil
	}
	n.learnOthers(s.box)
	n.pending, n.folders = make(map[string]struct{}), make(map[string]*known)
	// Before the listing: what happens meanwhile is seen twice, and not missed.
	u, _ := s.box.Updates(0)
	n.since = u.Version
	infos, err := s.listNotified(n, true)
	if err != nil || !a.status {
		return err
	}
	for _, l := range infos {
		w := n.folders[l.Name]
		if w == nil || n.events(l.Name, w.subscribed)&messageEvents == 0 {
			continue
		}
		if s.stopping() {
			return errEnded
		}
		if err := s.tellCounts(n, l.Name, w, true); err != nil {
			if err = softly(err); err != nil {
				return s.fail(err)
			}
		}
	}
	return s.out.Err()
}

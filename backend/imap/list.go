package imap

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// maxPattern bounds the patterns of one LIST, together and with the reference
// before each, in bytes: the time that matching takes grows with them.
const maxPattern = 1024

// listed is a name that LIST may give.
type listed struct {
	mailbox.FolderInfo
	missing bool // only subscribed
	below   bool // something below it is subscribed and not listed itself
}

// List implements LIST, LSUB (RFC 3501, Section 6.3.8 and 6.3.9), LIST-EXTENDED
// (RFC 5258) and LIST-STATUS (RFC 5819).
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, o *imap.ListOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(patterns) == 0 {
		// An empty name asks for the separator.
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: mailbox.Separator})
	}
	if o.SelectSpecialUse {
		return nil // there are none
	}
	length := 0
	for _, p := range patterns {
		length += len(ref) + len(p)
	}
	if length > maxPattern {
		return bad("mailbox pattern too long")
	}
	names, err := s.names(o.SelectSubscribed)
	if err != nil {
		return s.fail("LIST", err)
	}
	for i, p := range patterns {
		patterns[i] = folderName(ref + p)
	}
	lsub := s.c.in.verb() == "LSUB"
	for _, l := range selectNames(names, patterns, o, lsub, s.stopping) {
		if s.stopping() {
			break
		}
		data := l.data(o, lsub)
		if o.ReturnStatus != nil && !l.missing && !l.NoSelect {
			if data.Status, err = s.status(l.Name); fenced(err) {
				return s.fail("LIST", err)
			}
		}
		if err := w.WriteList(data); err != nil {
			return err
		}
	}
	if s.stopping() {
		return s.end(s.c.ending())
	}
	return nil
}

// stopping reports that the session must end.
func (s *session) stopping() bool { return s.c.ending() != endNone }

// names gives the folders, and with missing also those that are subscribed to
// only.
func (s *session) names(missing bool) ([]listed, error) {
	infos, err := s.box.Folders()
	if err != nil {
		return nil, err
	}
	out := make([]listed, len(infos))
	have := make(map[string]bool, len(infos))
	for i, info := range infos {
		out[i] = listed{FolderInfo: info}
		have[info.Name] = true
	}
	if !missing {
		return out, nil
	}
	subs, err := s.box.Subscriptions()
	if err != nil {
		return nil, err
	}
	for _, name := range subs {
		if !have[name] {
			out = append(out, listed{FolderInfo: mailbox.FolderInfo{Name: name, Subscribed: true}, missing: true})
		}
	}
	return out, nil
}

// selectNames picks what patterns and selection options ask for. Once stop says
// so, nothing matches any more.
func selectNames(names []listed, patterns []string, o *imap.ListOptions, lsub bool, stop func() bool) []listed {
	matches := func(name string) bool {
		return !stop() && slices.ContainsFunc(patterns, func(p string) bool { return matchName(p, name) })
	}
	if !o.SelectSubscribed {
		return slices.DeleteFunc(names, func(l listed) bool { return !matches(l.Name) })
	}
	if lsub || o.SelectRecursiveMatch {
		names = markParents(names, matches)
	}
	return slices.DeleteFunc(names, func(l listed) bool { return !l.Subscribed && !l.below || !matches(l.Name) })
}

// markParents marks the matching names above subscribed ones that do not match
// themselves, adding those that are not folders.
func markParents(names []listed, matches func(string) bool) []listed {
	at := make(map[string]int, len(names))
	for i, l := range names {
		at[l.Name] = i
	}
	for i := range names {
		name := names[i].Name
		if !names[i].Subscribed || matches(name) {
			continue
		}
		for j := strings.LastIndexByte(name, mailbox.Separator); j > 0; j = strings.LastIndexByte(name, mailbox.Separator) {
			if name = name[:j]; !matches(name) {
				continue
			}
			k, ok := at[name]
			if !ok {
				k = len(names)
				at[name] = k
				names = append(names, listed{FolderInfo: mailbox.FolderInfo{Name: name, HasChildren: true}, missing: true})
			}
			names[k].below = true
		}
	}
	return names
}

func (l listed) data(o *imap.ListOptions, lsub bool) *imap.ListData {
	d := &imap.ListData{Delim: mailbox.Separator, Mailbox: l.Name}
	add := func(on bool, a imap.MailboxAttr) {
		if on {
			d.Attrs = append(d.Attrs, a)
		}
	}
	extended := o.ReturnSubscribed || o.SelectSubscribed
	add(l.missing && !lsub, imap.MailboxAttrNonExistent)
	// LSUB's \Noselect stands for "not subscribed itself" (RFC 3501, Section 6.3.9).
	// In LSUB it says "not subscribed" (RFC 3501, Section 6.3.9).
	add(!lsub && (l.NoSelect || l.missing) || lsub && !l.Subscribed, imap.MailboxAttrNoSelect)
	add(extended && l.Subscribed, imap.MailboxAttrSubscribed)
	add(l.HasChildren, imap.MailboxAttrHasChildren)
	add(!l.HasChildren && !l.missing, imap.MailboxAttrHasNoChildren)
	if l.below && o.SelectRecursiveMatch {
		d.ChildInfo = &imap.ListDataChildInfo{Subscribed: true}
	}
	return d
}

// matchName matches a name against a pattern of LIST: '*' is anything, '%'
// anything without a separator. It takes time in proportion to the product of
// the lengths, whatever the pattern.
func matchName(pattern, name string) bool {
	if name == mailbox.Inbox {
		pattern = strings.ToUpper(pattern)
	}
	// can[i]: the pattern so far matches name[:i].
	can := make([]bool, len(name)+1)
	can[0] = true
	for i := range len(pattern) {
		switch p := pattern[i]; p {
		case '*', '%':
			for j := 1; j <= len(name); j++ {
				can[j] = can[j] || can[j-1] && (p == '*' || name[j-1] != mailbox.Separator)
			}
		default:
			for j := len(name); j > 0; j-- {
				can[j] = can[j-1] && name[j-1] == p
			}
			can[0] = false
		}
	}
	return can[len(name)]
}

package imap

import (
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

// maxPattern bounds the patterns of one LIST, together and with the reference
// before each, in bytes: the time that matching takes grows with them.
const maxPattern = 1024

// listArgs are LIST's (RFC 9051, Section 6.3.9; RFC 5258).
type listArgs struct {
	lsub     bool
	ref      string
	patterns []string

	// Selection options.
	subscribed, remote, recursive, special bool
	// Return options.
	tellSubscribed, tellChildren, tellSpecial, tellMyRights bool
	status                                                  statusItems
	metadata                                                []string
}

// listed is a name that LIST may give.
type listed struct {
	mailbox.FolderInfo
	missing bool // only subscribed
	below   bool // something below it is subscribed and not listed itself
	// NOTIFY's (RFC 5465, Sections 3.1 and 5.4): a mailbox that must not be read, and what one
	// that was renamed was called.
	refused bool
	oldName string
}

// list implements LIST with LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819), SPECIAL-USE (RFC
// 6154) and LIST-MYRIGHTS' option where it is asked for (RFC 8440).
func (s *session) list(c *cmd) error {
	a, err := s.listArgs(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	return s.listing(c, a)
}

// lsub implements LSUB (RFC 3501, Section 6.3.9).
func (s *session) lsub(c *cmd) error {
	a := listArgs{lsub: true, subscribed: true}
	var err error
	if a.ref, err = s.mailboxArg(c); err != nil {
		return err
	}
	if err := c.SP(); err != nil {
		return err
	}
	p, err := c.ListMailbox()
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	a.patterns = []string{p}
	return s.listing(c, a)
}

func (s *session) listArgs(c *cmd) (a listArgs, err error) {
	if err := c.SP(); err != nil {
		return a, err
	}
	if c.Peek() == '(' {
		if err := a.selection(c); err != nil {
			return a, err
		}
		if err := c.SP(); err != nil {
			return a, err
		}
	}
	if a.ref, err = c.Mailbox(); err != nil {
		return a, err
	}
	if err := c.SP(); err != nil {
		return a, err
	}
	err = c.One(func() error {
		p, err := c.ListMailbox()
		a.patterns = append(a.patterns, p)
		return err
	})
	if err != nil || !c.Take(' ') {
		return a, err
	}
	if !c.TakeName("RETURN") {
		return a, bad("expected RETURN")
	}
	if err := c.SP(); err != nil {
		return a, err
	}
	return a, s.listReturn(c, &a)
}

// selection takes RFC 5258's selection options.
func (a *listArgs) selection(c *cmd) error {
	err := c.List(true, func() error {
		name, err := c.Name()
		switch name {
		case "SUBSCRIBED":
			a.subscribed = true
		case "REMOTE":
			a.remote = true
		case "RECURSIVEMATCH":
			a.recursive = true
		case "SPECIAL-USE":
			a.special = true
		default:
			if err == nil {
				err = bad("unknown selection option")
			}
		}
		return err
	})
	if err == nil && a.recursive && !a.subscribed && !a.special {
		err = bad("RECURSIVEMATCH needs another option")
	}
	return err
}

// listReturn takes RFC 5258's return options.
func (s *session) listReturn(c *cmd, a *listArgs) error {
	return c.List(true, func() error {
		name, err := c.Name()
		if err != nil {
			return err
		}
		switch name {
		case "SUBSCRIBED":
			a.tellSubscribed = true
		case "CHILDREN":
			a.tellChildren = true
		case "SPECIAL-USE":
			a.tellSpecial = true
		case "MYRIGHTS":
			a.tellMyRights = true
		case "STATUS":
			if err := c.SP(); err != nil {
				return err
			}
			a.status, err = s.statusArgs(c)
		case "METADATA":
			if err := c.SP(); err != nil {
				return err
			}
			a.metadata, err = entryNames(c)
		default:
			err = bad("unknown return option")
		}
		return err
	})
}

// listing answers.
func (s *session) listing(c *cmd, a listArgs) error {
	word := "LIST"
	if a.lsub {
		word = "LSUB"
	}
	if len(a.patterns) == 1 && a.patterns[0] == "" {
		// An empty name asks for the separator.
		s.out.Raw("* ").Raw(word).Raw(` (\Noselect) `).String(s.separator()).Raw(` ""`).CRLF()
		return nil
	}
	length := 0
	for i, p := range a.patterns {
		length += len(a.ref) + len(p)
		a.patterns[i] = folderName(a.ref + p)
	}
	if length > maxPattern {
		return bad("mailbox pattern too long")
	}
	names, err := s.names(a.subscribed)
	if err != nil {
		return s.fail(err)
	}
	for _, l := range selectNames(names, &a, s.stopping) {
		if s.stopping() {
			return errEnded
		}
		s.tellListed(word, l, &a)
		if err := s.tellBeside(l, &a); err != nil {
			return s.fail(err)
		}
	}
	return s.out.Err()
}

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

// wanted reports that the selection options choose l for itself.
func (a *listArgs) wanted(l *listed) bool {
	return (!a.subscribed || l.Subscribed) && (!a.special || l.SpecialUse != "")
}

// selectNames picks what patterns and selection options ask for. Once stop says
// so, nothing matches any more.
func selectNames(names []listed, a *listArgs, stop func() bool) []listed {
	matches := func(name string) bool {
		return !stop() && slices.ContainsFunc(a.patterns, func(p string) bool { return matchName(p, name) })
	}
	if a.recursive || a.lsub {
		matches = once(matches) // names that many are below would be matched for each of these
		names = markParents(names, a, matches)
	}
	return slices.DeleteFunc(names, func(l listed) bool { return !a.wanted(&l) && !l.below || !matches(l.Name) })
}

// once remembers answers.
func once(f func(string) bool) func(string) bool {
	known := make(map[string]bool)
	return func(name string) bool {
		is, ok := known[name]
		if !ok {
			is = f(name)
			known[name] = is
		}
		return is
	}
}

// markParents marks the matching names above chosen ones that do not match
// themselves, adding those that are not folders.
func markParents(names []listed, a *listArgs, matches func(string) bool) []listed {
	at := make(map[string]int, len(names))
	for i, l := range names {
		at[l.Name] = i
	}
	for i := range len(names) {
		name := names[i].Name
		// A parent stands for what is not listed itself (RFC 3501, Section 6.3.9; RFC 5258,
		// Section 3.5).
		if !a.wanted(&names[i]) || matches(name) {
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

// tellListed writes one LIST or LSUB response.
func (s *session) tellListed(word string, l listed, a *listArgs) {
	var attrs []string
	add := func(on bool, attr string) {
		if on {
			attrs = append(attrs, attr)
		}
	}
	add(l.missing && !a.lsub, `\NonExistent`)
	// LSUB's \Noselect says "not subscribed itself" (RFC 3501, Section 6.3.9).
	add(!a.lsub && (l.NoSelect || l.missing) || a.lsub && !l.Subscribed, `\Noselect`)
	add((a.tellSubscribed || a.subscribed && !a.lsub) && l.Subscribed, `\Subscribed`)
	add(l.HasChildren, `\HasChildren`)
	add(!l.HasChildren && !l.missing, `\HasNoChildren`)
	add(l.refused, `\NoAccess`)
	// Special uses are told in every LIST, as RFC 6154, Section 2 allows.
	add(!a.lsub && l.SpecialUse != "", l.SpecialUse)
	s.out.Raw("* ").Raw(word).SP().Atoms(attrs).SP().String(s.separator()).SP().Mailbox(l.Name)
	if l.below && a.recursive {
		var kinds []string
		if a.subscribed {
			kinds = append(kinds, `"SUBSCRIBED"`)
		}
		if a.special {
			kinds = append(kinds, `"SPECIAL-USE"`)
		}
		s.out.Raw(` ("CHILDINFO" (`).Raw(strings.Join(kinds, " ")).Raw("))")
	}
	if l.oldName != "" {
		s.out.Raw(` ("OLDNAME" (`).Mailbox(l.oldName).Raw("))")
	}
	s.out.CRLF()
}

// tellBeside writes what LIST was asked to give with each name.
func (s *session) tellBeside(l listed, a *listArgs) error {
	if l.missing || l.NoSelect {
		return nil
	}
	if a.tellMyRights {
		rights, err := s.box.Rights(l.Name)
		if err != nil {
			return softly(err)
		}
		s.tellMyRights(l.Name, rights)
	}
	if len(a.metadata) > 0 {
		if err := s.tellMetadata(l.Name, a.metadata, &metadataOptions{max: -1}); err != nil {
			return softly(err)
		}
	}
	if a.status == nil {
		return nil
	}
	rights, err := s.box.Rights(l.Name)
	if err == nil && rights.Has('r') {
		err = s.tellStatus(l.Name, a.status)
	}
	return softly(err)
}

// softly lets a LIST go on where one folder's status cannot be had (RFC 5819, Section 2),
// unless the session must end.
func softly(err error) error {
	if fenced(err) {
		return err
	}
	return nil
}

// matchName matches a name against a pattern of LIST: '*' is anything, '%'
// anything without a separator. It takes time in proportion to the product of
// the lengths, whatever the pattern.
func matchName(pattern, name string) bool {
	// What stands for INBOX is so in any case, as it is in a name (see folderName).
	anyCase := 0
	if first, _, _ := strings.Cut(name, string(mailbox.Separator)); first == mailbox.Inbox {
		anyCase = len(first)
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
				can[j] = can[j-1] && (name[j-1] == p || j <= anyCase && 'a' <= p && p <= 'z' && name[j-1] == p-'a'+'A')
			}
			can[0] = false
		}
	}
	return can[len(name)]
}

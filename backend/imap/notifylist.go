package imap

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

// listing is one look at the folders, compared with what the client knows.
type listing struct {
	s     *session
	n     *notify
	first bool
	now   map[string]*listed
	// fresh and gone are names of folders that came or went, changed those with another
	// subscription.
	fresh, gone, changed []string
	told                 map[string]bool // names of which a LIST was told
}

// listNotified looks at the folders and tells what changed in their names, subscriptions and
// metadata (RFC 5465, Sections 5.4 to 5.7 and 5.9); the first time it only learns them.
func (s *session) listNotified(n *notify, first bool) ([]listed, error) {
	infos, err := s.names(true)
	if err != nil {
		return nil, s.fail(err)
	}
	l := &listing{s: s, n: n, first: first, now: make(map[string]*listed), told: make(map[string]bool)}
	n.pass++
	for i := range infos {
		info := &infos[i]
		l.now[info.Name] = info
		if !n.concerned(info.Name) {
			continue
		}
		if err := l.look(info); err != nil {
			return nil, s.fail(err)
		}
	}
	for name, w := range n.folders {
		if w.pass == n.pass {
			continue
		}
		if w.exists {
			l.gone = append(l.gone, name)
		}
		if w.subscribed && !w.own && n.events(name, true)&subscriptionChange != 0 {
			l.changed = append(l.changed, name)
		}
	}
	if err := l.tellNames(); err != nil {
		return nil, s.fail(err)
	}
	for _, name := range l.changed {
		l.tell(name, "", false)
	}
	for _, name := range l.gone {
		n.forgetID(n.folders[name])
	}
	for name, w := range n.folders {
		if w.pass != n.pass {
			n.forget(name)
		}
	}
	if err := l.metadata(infos); err != nil {
		return nil, s.fail(err)
	}
	for _, w := range n.folders {
		w.own = false
	}
	if len(n.folders) > maxKnown {
		return nil, errOverflow()
	}
	return infos, s.out.Err()
}

// look compares one name.
func (l *listing) look(info *listed) error {
	n, s := l.n, l.s
	exists, access := !info.missing && !info.NoSelect, false
	if exists {
		rights := mailbox.AllRights
		if !n.personal(info.Name) {
			var err error
			if rights, err = s.box.Rights(info.Name); err != nil && !errors.Is(err, mailbox.ErrNoFolder) {
				return err
			}
		}
		exists = rights.Has('l')
		access = exists && rights.Has('r')
	}
	w := n.folders[info.Name]
	if w == nil {
		w = &known{subscribed: l.first && info.Subscribed}
		n.folders[info.Name] = w
	}
	w.pass = n.pass
	wants := n.events(info.Name, info.Subscribed) | n.events(info.Name, w.subscribed)
	switch {
	case exists && !w.exists:
		if !l.first && wants&mailboxName != 0 {
			l.fresh = append(l.fresh, info.Name)
		}
	case !exists && w.exists:
		if wants&mailboxName != 0 {
			l.gone = append(l.gone, info.Name)
		}
		w.counted, w.metadata = false, nil
	}
	w.exists = exists
	if w.subscribed != info.Subscribed && !w.own && wants&subscriptionChange != 0 {
		l.changed = append(l.changed, info.Name)
	}
	w.subscribed = info.Subscribed
	hidden := !exists && !info.missing && !info.NoSelect
	if hidden && w.access && wants&mailboxName == 0 || exists && !access && !w.refused {
		// RFC 5465, Section 3.1 and 5.9.
		w.refused = true
		if wants&^serverMetadata != 0 {
			l.tell(info.Name, "", true)
		}
	}
	if access && w.refused {
		w.refused = false
		l.tell(info.Name, "", false)
	}
	if w.access = access; !access {
		w.counted, w.metadata = false, nil
	}
	return l.identify(info.Name, w, wants)
}

// identify learns the folder's MAILBOXID.
func (l *listing) identify(name string, w *known, wants event) error {
	if !w.access || w.id != "" || wants&mailboxName == 0 || l.n.ids >= maxIDs {
		return nil
	}
	folder, err := l.s.box.Folder(name)
	if err == nil {
		var st mailbox.Status
		if st, err = folder.Status(); err == nil && st.ID != "" {
			w.id = st.ID
			l.n.ids++
		}
	}
	return softly(err) // it will be told as new
}

// tell writes a LIST response, once for a name.
func (l *listing) tell(name, old string, refused bool) {
	if l.told[name] {
		return
	}
	l.told[name] = true
	is := listed{FolderInfo: mailbox.FolderInfo{Name: name}, missing: true}
	if info := l.now[name]; info != nil {
		is = *info
		w := l.n.folders[name]
		is.missing = is.missing || is.NoSelect || w != nil && !w.exists
	}
	is.oldName, is.refused = old, refused
	l.s.tellListed("LIST", is, &listArgs{tellSubscribed: true})
}

// tellNames tells of names that are new or gone, and of renames.
func (l *listing) tellNames() error {
	slices.Sort(l.fresh)
	slices.Sort(l.gone)
	byID := make(map[string]string)
	for _, name := range l.gone {
		if w := l.n.folders[name]; w.id != "" {
			byID[w.id] = name
		}
	}
	renamed := make(map[string]string) // new name → old
	was := make(map[string]bool)
	for _, name := range l.fresh {
		w := l.n.folders[name]
		old, ok := byID[w.id]
		if w.id == "" || !ok {
			continue
		}
		renamed[name], was[old] = old, true
		gone := l.n.folders[old]
		w.counted, w.counts = gone.counted, gone.counts
		w.metadata = gone.metadata
		w.subscribed = l.now[name].Subscribed
	}
	for _, name := range l.fresh {
		old := renamed[name]
		if old != "" && l.along(name, old, renamed) {
			continue // its parent's rename says it (RFC 5465, Section 5.4)
		}
		l.tell(name, old, false)
		if old == "" {
			l.tellParent(name)
		}
	}
	for _, name := range l.gone {
		w := l.n.folders[name]
		if was[name] || l.n.events(name, w.subscribed)&mailboxName == 0 {
			continue
		}
		l.tell(name, "", false)
		l.tellParent(name)
	}
	return l.s.out.Err()
}

// along reports that a folder was renamed with one above it.
func (l *listing) along(name, old string, renamed map[string]string) bool {
	for {
		i, j := strings.LastIndexByte(name, mailbox.Separator), strings.LastIndexByte(old, mailbox.Separator)
		if i < 0 || j < 0 || name[i:] != old[j:] {
			return false
		}
		name, old = name[:i], old[:j]
		if was, ok := renamed[name]; ok && was == old {
			return true
		}
	}
}

// tellParent tells of the name above one that came or went, which is affected, too.
func (l *listing) tellParent(name string) {
	i := strings.LastIndexByte(name, mailbox.Separator)
	if i < 0 {
		return
	}
	parent := name[:i]
	subscribed := l.now[parent] != nil && l.now[parent].Subscribed
	if l.n.events(parent, subscribed)&mailboxName != 0 {
		l.tell(parent, "", false)
	}
}

// metadata compares the entries of the folders and of the account.
func (l *listing) metadata(infos []listed) error {
	n := l.n
	if n.all&serverMetadata != 0 {
		now, err := l.entries("", n.account)
		if err != nil {
			return err
		}
		n.account = now
	}
	if n.all&mailboxMetadata == 0 {
		return nil
	}
	count := 0
	for i := range infos {
		name := infos[i].Name
		w := n.folders[name]
		if w == nil || !w.access || n.events(name, w.subscribed)&mailboxMetadata == 0 {
			continue
		}
		if count++; count > maxNoted {
			return errOverflow()
		}
		if w.metadata == nil && !l.first && !w.own {
			w.metadata = map[string]uint64{} // it is new, and so is what it has
		}
		now, err := l.entries(name, w.metadata)
		if errors.Is(err, mailbox.ErrNoFolder) {
			continue
		}
		if err != nil {
			return err
		}
		w.metadata = now
	}
	return nil
}

// entries gives the hashes of entries, and tells the names of those that are not as in was.
func (l *listing) entries(name string, was map[string]uint64) (map[string]uint64, error) {
	all, err := l.s.box.Metadata(name)
	if err != nil {
		return nil, err
	}
	now := make(map[string]uint64, len(all))
	var changed []string
	for entry, value := range all {
		h := hashOf(value)
		if old, ok := was[entry]; !ok || old != h {
			changed = append(changed, entry)
		}
		now[entry] = h
	}
	for entry := range maps.Keys(was) {
		if _, ok := now[entry]; !ok {
			changed = append(changed, entry)
		}
	}
	if was != nil && len(changed) > 0 {
		slices.Sort(changed)
		o := l.s.out.Raw("* METADATA ").Mailbox(name) // RFC 5464, Section 4.4.2
		for _, entry := range changed {
			o.SP().AString(entry)
		}
		o.CRLF()
	}
	return now, nil
}

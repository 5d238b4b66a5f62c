package mailbox

import "strings"

// Naming is how folders are called in the world outside, by clients and in Sieve scripts: as
// servers before us had it, so that nobody must learn other names. The zero value calls them
// what they are called here.
type Naming struct {
	// Separator stands between the parts of a name outside; 0 is that of here. It and that
	// of here change places: what has the one inside of a part there has the other here.
	Separator byte
	// Inbox puts all personal folders below INBOX, as Courier has them.
	Inbox bool
}

// InboxPrefix is what personal folders begin with under Naming.Inbox, before the separators
// have changed places.
const InboxPrefix = Inbox + string(Separator)

// Swap changes the separators: from outside to here, or back.
func (n Naming) Swap(name string) string {
	if n.Separator == 0 || n.Separator == Separator || strings.IndexByte(name, n.Separator) < 0 && strings.IndexByte(name, Separator) < 0 {
		return name
	}
	b := []byte(name)
	for i, c := range b {
		switch c {
		case n.Separator:
			b[i] = Separator
		case Separator:
			b[i] = n.Separator
		}
	}
	return string(b)
}

// In gives the name that a personal folder has here. One without the prefix that it should
// have is taken as well.
func (n Naming) In(outside string) string {
	name := n.Swap(outside)
	if n.Inbox && len(name) > len(InboxPrefix) && strings.EqualFold(name[:len(InboxPrefix)], InboxPrefix) {
		return name[len(InboxPrefix):]
	}
	return name
}

// Out gives the name that a personal folder has outside.
func (n Naming) Out(name string) string {
	if n.Inbox && !strings.EqualFold(name, Inbox) {
		name = InboxPrefix + name
	}
	return n.Swap(name)
}

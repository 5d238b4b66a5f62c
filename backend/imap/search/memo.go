package search

import (
	"strings"

	"waypost/backend/imap/order"
	"waypost/backend/mailbox"
)

// Known is a message's value of a sort key.
type Known struct {
	UID   mailbox.UID
	Value order.Value
}

// ValueView is implemented by Views that remember what SORT has found out: a message's contents
// never change, and so its values do not. Both lists rise by UID, and nobody writes to them.
type ValueView interface {
	// Values are what is remembered of a key, maybe nothing, maybe also of messages that are
	// gone.
	Values(k order.Key) []Known
	// Remember replaces it.
	Remember(k order.Key, all []Known)
}

// memo is one key's part in a SORT.
type memo struct {
	key   order.Key
	old   []Known
	at    int // in old: all before it are of messages before the present one
	fresh []Known
	// present are values of the hits.
	present []Known
}

// memos are those of the criteria; nil where nothing is remembered.
func (q *Query) memos(v View, hits int) []*memo {
	all := make([]*memo, len(q.sort))
	vv, ok := v.(ValueView)
	if !ok {
		return all
	}
	for i, c := range q.sort {
		if c.Key != order.Size {
			all[i] = &memo{key: c.Key, old: vv.Values(c.Key), present: make([]Known, 0, hits)}
		}
	}
	return all
}

// find looks for a message; they come with rising UIDs.
func (m *memo) find(uid mailbox.UID) (order.Value, bool) {
	if m == nil {
		return order.Value{}, false
	}
	for m.at < len(m.old) && m.old[m.at].UID < uid {
		m.at++
	}
	if m.at == len(m.old) || m.old[m.at].UID != uid {
		return order.Value{}, false
	}
	m.present = append(m.present, m.old[m.at])
	return m.old[m.at].Value, true
}

func (m *memo) add(uid mailbox.UID, v order.Value) {
	if m != nil {
		v.Text = strings.Clone(v.Text) // it may be a part of all of a field
		k := Known{uid, v}
		m.fresh, m.present = append(m.fresh, k), append(m.present, k)
	}
}

// keep hands on what is new. Messages that are gone are forgotten when they are most of it.
func (m *memo) keep(v View) {
	if m == nil || len(m.fresh) == 0 {
		return
	}
	all := m.present
	if len(m.old)+len(m.fresh) <= 2*v.Len()+1000 {
		all = make([]Known, 0, len(m.old)+len(m.fresh))
		fresh := m.fresh
		for _, k := range m.old {
			for len(fresh) > 0 && fresh[0].UID < k.UID {
				all, fresh = append(all, fresh[0]), fresh[1:]
			}
			all = append(all, k)
		}
		all = append(all, fresh...)
	}
	v.(ValueView).Remember(m.key, all)
}

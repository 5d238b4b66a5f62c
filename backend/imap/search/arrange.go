package search

import (
	"errors"
	"slices"
	"time"

	"waypost/backend/imap/collate"
	"waypost/backend/imap/order"
	"waypost/backend/imap/thread"
	"waypost/backend/mailbox"
)

// each calls of, which begins with x.begin if it needs x, for every hit; those whose messages have vanished are dropped.
func (r *run) each(res *Result, of func(at int, h hit) error) error {
	left := res.hits[:0]
	r.all += len(res.hits)
	for _, h := range res.hits {
		switch err := of(len(left), h); {
		case errors.Is(err, mailbox.ErrNoMessage):
		case err != nil:
			return err
		default:
			left = append(left, h)
		}
		if err := r.step(true); err != nil {
			return err
		}
	}
	res.hits = left
	return nil
}

// sort puts the hits in order.
func (r *run) sort(q *Query, v View, res *Result) error {
	var names []string
	for _, c := range q.sort {
		if name := fieldOf(c.Key); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	x := r.reader(v, names)
	items := make([]order.Item, 0, len(res.hits))
	values := make([]order.Value, 0, len(res.hits)*len(q.sort))
	memos := q.memos(v, len(res.hits))
	err := r.each(res, func(at int, h hit) error {
		from, begun := len(values), false
		for i, c := range q.sort {
			value, known := memos[i].find(h.uid)
			if c.Key == order.Size {
				value.Number, known = sizeOf(v, h), true
			}
			if !known {
				var err error
				if !begun {
					begun, err = true, x.begin(h.uid)
				}
				if err == nil {
					value, err = x.sortValue(c.Key)
				}
				if err != nil {
					values = values[:from]
					return err
				}
				memos[i].add(h.uid, value)
			}
			values = append(values, value)
		}
		items = append(items, order.Item{At: at, Values: values[from:len(values):len(values)]})
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range memos {
		m.keep(v)
	}
	order.Sort(items, q.sort)
	sorted := make([]hit, len(items))
	for i, item := range items {
		sorted[i] = res.hits[item.At]
	}
	res.hits = sorted
	return nil
}

func sizeOf(v View, h hit) int64 {
	for _, m := range v.From(int(h.index)) {
		return m.WireSize
	}
	return 0
}

// sortValue gives the value of any key but SIZE; its strings are its own.
func (x *reader) sortValue(k order.Key) (order.Value, error) {
	var t time.Time
	var err error
	switch k {
	case order.Subject:
		return order.SubjectOf(x.value("subject")), nil
	case order.Arrival:
		t, err = x.arrived()
		return order.Time(t), err
	case order.Date:
		t, err = x.sent()
		return order.Time(t), err
	}
	list, err := x.addresses(fieldOf(k))
	if k == order.DisplayFrom || k == order.DisplayTo {
		return order.Display(list), err
	}
	return order.Mailbox(list), err
}

// fieldOf is the header field that a key is about.
func fieldOf(k order.Key) string {
	switch k {
	case order.Subject:
		return "subject"
	case order.Date:
		return "date"
	case order.From, order.DisplayFrom:
		return "from"
	case order.To, order.DisplayTo:
		return "to"
	case order.Cc:
		return "cc"
	}
	return ""
}

// thread makes threads of the hits.
func (r *run) thread(q *Query, v View, res *Result) error {
	names := []string{"subject", "date", "message-id", "references", "in-reply-to"}
	switch q.thread {
	case orderedSubject:
		names = []string{"subject", "date"}
	}
	x := r.reader(v, names)
	all := make([]thread.Message, 0, len(res.hits))
	err := r.each(res, func(_ int, h hit) error {
		if err := x.begin(h.uid); err != nil {
			return err
		}
		m, err := x.threaded(q.thread)
		if err == nil {
			all = append(all, m)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	switch q.thread {
	case orderedSubject:
		res.threads = thread.OrderedSubject(all)
	case references:
		res.threads = thread.References(all)
	default:
		res.threads = thread.Refs(all)
	}
	return nil
}

// threaded is what threads need of the present message.
func (x *reader) threaded(a algorithm) (m thread.Message, err error) {
	if a != orderedSubject {
		m.ID = thread.ID(x.value("message-id"))
		// Only without References does In-Reply-To count, and of it the first id (RFC
		// 5256, Section 3, step 1).
		m.Refs = thread.IDs(x.value("references"))
		if len(m.Refs) == 0 {
			m.Refs = thread.IDs(x.value("in-reply-to"))
			m.Refs = m.Refs[:min(len(m.Refs), 1)]
		}
	}
	base, reply := order.BaseSubject(x.value("subject"))
	m.Subject, m.Reply = collate.Key(base), reply
	m.Sent, err = x.sent()
	return m, err
}

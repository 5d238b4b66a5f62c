package search

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/imap/order"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// reader gets at what SORT and THREAD need of one message after the other.
type reader struct {
	run   *run
	view  View
	names []string
	// values are the first fields of names, in the present message.
	values []string
	// date is that of the field date, if that is one of names.
	date time.Time
	cut  bool
	had  []bool
	// whole: address fields are to be taken from the Meta.
	whole bool
	quick func(uid mailbox.UID, each func(*mime.Field)) error
	take  func(*mime.Field)
	uid   mailbox.UID
	meta  *mailbox.Meta
}

func (r *run) reader(v View, names []string) *reader {
	x := &reader{run: r, view: v, names: names, values: make([]string, len(names)), had: make([]bool, len(names))}
	if h, ok := v.(HeaderView); ok && len(names) > 0 {
		x.quick = h.Headers(names)
	}
	x.take = x.field
	return x
}

// begin turns to another message and reads its fields.
func (x *reader) begin(uid mailbox.UID) error {
	x.uid, x.meta, x.cut, x.date, x.whole = uid, nil, false, time.Time{}, x.quick == nil
	clear(x.values)
	clear(x.had)
	if len(x.names) == 0 {
		return nil
	}
	if x.quick != nil {
		if err := x.quick(uid, x.take); err != nil {
			return err
		}
	} else {
		meta, err := x.indexed()
		if err != nil {
			return err
		}
		for i := range meta.Fields {
			x.field(&meta.Fields[i])
		}
	}
	if x.cut {
		return x.open()
	}
	return nil
}

func (x *reader) field(f *mime.Field) {
	i := slices.Index(x.names, f.Name)
	switch {
	case i < 0:
	case isAddress(f.Name):
		// Those of several fields make one list in an Envelope.
		x.whole = x.whole || f.Cut || x.had[i]
		x.had[i], x.values[i] = true, strings.Clone(f.Value)
	case x.had[i]:
	default:
		x.had[i] = true
		x.cut = x.cut || f.Cut
		if f.Name == "date" {
			x.date = order.Sent(f.Value)
		} else {
			x.values[i] = strings.Clone(f.Value)
		}
	}
}

func isAddress(name string) bool { return name == "from" || name == "to" || name == "cc" }

// addresses is what the Envelope has of a field that the reader was made for.
func (x *reader) addresses(name string) ([]imap.Address, error) {
	if !x.whole {
		return mime.AddressList(x.value(name)), nil
	}
	meta, err := x.indexed()
	if err != nil {
		return nil, err
	}
	switch name {
	case "from":
		return meta.Root.Envelope.From, nil
	case "to":
		return meta.Root.Envelope.To, nil
	}
	return meta.Root.Envelope.Cc, nil
}

// open reads the header of the message itself: a field was too much for the index.
func (x *reader) open() error {
	if err := x.run.acquire(); err != nil {
		return err
	}
	defer x.run.release()
	b, err := x.view.Open(x.uid)
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.Seek(0, io.SeekStart); err != nil {
		return err
	}
	fields, err := mime.Fields(b)
	if err != nil {
		return err
	}
	clear(x.had)
	x.whole = true // encoded words are decoded here
	for i := range fields {
		x.field(&fields[i])
	}
	return nil
}

// value is the first field of a name that the reader was made for, or "".
func (x *reader) value(name string) string { return x.values[slices.Index(x.names, name)] }

func (x *reader) indexed() (*mailbox.Meta, error) {
	if x.meta != nil {
		return x.meta, nil
	}
	var err error
	x.meta, err = x.view.Meta(x.uid)
	return x.meta, err
}

// arrived is the internal date.
func (x *reader) arrived() (time.Time, error) { return x.view.InternalDate(x.uid) }

// sent is the sent date (RFC 5256, Section 2.2), of the field date.
func (x *reader) sent() (time.Time, error) {
	if !x.date.IsZero() {
		return x.date, nil
	}
	return x.arrived()
}

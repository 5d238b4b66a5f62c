package pop3

import (
	"errors"
	"strconv"
	"strings"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
	"waypost/internal/poplist"
)

// listing is XLST, the extended listing (docs/pop3-listing.md): for each message
// what a list of messages shows, from the folder's index and without opening a
// message that the index knows. Its lines go out as they are made: memory does not
// depend on their number.
func (s *session) listing(args []string) error {
	first, last, ok := 1, s.messages.Len(), true
	if len(args) > 1 {
		return s.reject("wrong number of arguments")
	}
	if len(args) == 1 {
		if first, last, ok = span(args[0], last); !ok {
			return s.reject("want a number or a range")
		}
		if !strings.Contains(args[0], "-") {
			if _, ok, err := s.index(first); !ok {
				return err
			}
		}
	}
	s.bad = 0
	if s.from == 0 {
		if err := s.say("+OK listing follows"); err != nil {
			return err
		}
	}
	var line []byte
	for i, m := range s.messages.From(max(first, s.from) - 1) {
		if i >= last {
			break
		}
		if s.deleted[i] {
			continue
		}
		e, err := s.entry(i, m)
		if err != nil {
			s.from = i + 1 // where it goes on when the session does
			return err
		}
		line = poplist.Append(line[:0], &e)
		if _, err := s.out.Write(line); err != nil {
			return err
		}
	}
	return s.say(".")
}

// span reads "n", "n-" or "n-m": message numbers, of which the last may be above
// the number of messages, and none is 0.
func span(arg string, count int) (first, last int, ok bool) {
	from, to, isRange := strings.Cut(arg, "-")
	first, ok = number(from)
	last = first
	if ok && isRange {
		last = count
		if to != "" {
			last, ok = number(to)
			ok = ok && last >= first
		}
	}
	return first, last, ok && first > 0
}

// entry is a message's line. Of one that was removed or cannot be read meanwhile
// the contents are left out: other lines of the answer are on their way already,
// so there is no way to tell an error.
func (s *session) entry(i int, m *mailbox.Message) (poplist.Entry, error) {
	e := poplist.Entry{Number: i + 1, Size: m.WireSize, UIDL: s.uniqueID(i, m), Flags: flagNames(m.Flags)}
	h, attachment, err := s.heads.of(m.UID)
	if err != nil {
		if err = s.moved(err); errors.Is(err, ErrMoved) {
			return e, err
		}
		if !errors.Is(err, mailbox.ErrNoMessage) {
			s.log.Error("pop3: message could not be listed", "uid", m.UID, "err", err)
		}
		return e, nil
	}
	h.Fill(&e)
	e.Attachment = attachment
	return e, nil
}

// heads reads what a listing shows of messages.
type heads struct {
	mailbox.Reader
	fields mailbox.FieldSet
}

func newHeads(f mailbox.Folder) heads {
	set, _ := index.NamesOf([]string{"date", "from", "subject"})
	return heads{index.ReaderOf(f), set}
}

// of takes the first fields of their names; one that was too long for the index is
// empty.
func (r heads) of(uid mailbox.UID) (h poplist.Header, attachment bool, err error) {
	var date, from, subject bool
	take := func(value string, to *string, seen *bool) {
		if !*seen {
			*to, *seen = strings.Clone(value), true
		}
	}
	err = r.Fields(uid, r.fields, func(f *mime.Field) {
		switch f.Name {
		case "date":
			take(f.Value, &h.Date, &date)
		case "from":
			take(f.Value, &h.From, &from)
		case "subject":
			take(f.Value, &h.Subject, &subject)
		}
	})
	if err != nil {
		return h, false, err
	}
	s, err := r.Summary(uid)
	return h, s.Attachment, err
}

// flagNames gives flags as IMAP writes them (RFC 9051, Section 2.3.2).
func flagNames(f mailbox.Flags) []string {
	names := make([]string, 0, 2+len(f.Keywords))
	for i, name := range [...]string{`\Seen`, `\Answered`, `\Flagged`, `\Deleted`, `\Draft`} {
		if f.Has(1 << i) {
			names = append(names, name)
		}
	}
	return append(names, f.Keywords...)
}

// uniqueID is the UIDL of the message with index i.
func (s *session) uniqueID(i int, m *mailbox.Message) string {
	if id, ok := s.ids[i]; ok {
		return id
	}
	if id, ok := s.older[m.UID]; ok {
		return s.form.Older(*m, s.validity, id)
	}
	return s.form.Of(*m, s.validity)
}

func (s *session) list(args []int) error {
	count, octets := s.drop()
	title := strconv.Itoa(count) + " messages (" + strconv.FormatInt(octets, 10) + " octets)"
	return s.scan(args, title, func(dst []byte, _ int, m *mailbox.Message) []byte { return strconv.AppendInt(dst, m.WireSize, 10) })
}

func (s *session) uidl(args []int) error {
	return s.scan(args, "unique ids follow", func(dst []byte, i int, m *mailbox.Message) []byte { return append(dst, s.uniqueID(i, m)...) })
}

// scan answers LIST and UIDL: one message's entry, or everyone's.
func (s *session) scan(args []int, title string, entry func([]byte, int, *mailbox.Message) []byte) error {
	if len(args) == 1 {
		i, ok, err := s.index(args[0])
		if !ok {
			return err
		}
		return s.say("+OK %d %s", i+1, entry(nil, i, s.messages.At(i)))
	}
	if err := s.say("+OK %s", title); err != nil {
		return err
	}
	var line []byte
	for i, m := range s.messages.All() {
		if s.deleted[i] {
			continue
		}
		line = append(strconv.AppendInt(line[:0], int64(i+1), 10), ' ')
		line = append(entry(line, i, m), '\r', '\n')
		if _, err := s.out.Write(line); err != nil {
			return err
		}
	}
	return s.say(".")
}

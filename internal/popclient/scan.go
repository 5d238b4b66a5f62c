package popclient

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"waypost/internal/poplist"
)

// window is how many commands are sent before the first is answered, where the
// server says PIPELINING (RFC 2449, Section 6.6).
const window = 32

// scan is the listing for servers without an extended one: LIST, UIDL, and the
// headers of what the cache does not know.
func (c *Client) scan(give func(Entry) bool) error {
	all, err := c.numbers()
	if err != nil {
		return err
	}
	known := c.o.openCache()
	err = c.headers(all, known, give)
	if err == nil {
		known.keepOnly(all)
	}
	// What was learned up to a failure is worth keeping.
	return errors.Join(err, known.save())
}

// headers gives all messages. They are taken in runs that have as many unknown
// ones as may be asked for at once.
func (c *Client) headers(all []message, known *cache, give func(Entry) bool) error {
	atOnce := 1
	if c.has("PIPELINING") {
		atOnce = window
	}
	for len(all) > 0 {
		var ask []message
		end := 0
		for end < len(all) && len(ask) < atOnce && end < 8*window {
			if _, ok := known.get(all[end].uidl, c.o.Whole); !ok {
				ask = append(ask, all[end])
			}
			end++
		}
		fresh, err := c.fetch(ask)
		if err != nil {
			return err
		}
		for _, m := range all[:end] {
			s, isFresh := fresh[m.number]
			if isFresh {
				known.put(m.uidl, s)
			} else {
				s, _ = known.get(m.uidl, c.o.Whole)
			}
			if !give(s.entry(m)) {
				return nil
			}
		}
		all = all[end:]
	}
	return nil
}

// summary is what a message says, as an entry has it and as the cache keeps it.
type summary struct {
	Date       time.Time `json:"d,omitzero"`
	From       string    `json:"f,omitempty"`
	Subject    string    `json:"s,omitempty"`
	Attachment bool      `json:"a,omitempty"`
	Guessed    bool      `json:"g,omitempty"`
}

func (s summary) entry(m message) Entry {
	return Entry{AttachmentGuessed: s.Guessed, Entry: poplist.Entry{
		Number: m.number, Size: m.size, UIDL: m.uidl, Flags: []string{},
		Date: s.Date, From: s.From, Subject: s.Subject, Attachment: s.Attachment,
	}}
}

// fetch reads headers, or messages. Of one that the server does not give, since
// it has gone or is damaged, there is an empty summary, which is not kept.
func (c *Client) fetch(ask []message) (map[int]summary, error) {
	if len(ask) == 0 {
		return nil, nil
	}
	var commands strings.Builder
	for _, m := range ask {
		if c.o.Whole {
			fmt.Fprintf(&commands, "RETR %d\r\n", m.number)
		} else {
			fmt.Fprintf(&commands, "TOP %d 0\r\n", m.number)
		}
	}
	if err := c.c.send(commands.String()); err != nil {
		return nil, err
	}
	got := make(map[int]summary, len(ask))
	var again []message
	for _, m := range ask {
		s, err := c.answer(m)
		switch {
		case errors.Is(err, ErrServer):
			again = append(again, m)
		case err != nil:
			return nil, err
		default:
			got[m.number] = s
		}
	}
	if c.o.Whole || c.has("TOP") {
		return got, nil
	}
	// TOP is optional (RFC 1939, Section 7).
	for _, m := range again {
		if err := c.c.send(fmt.Sprintf("RETR %d\r\n", m.number)); err != nil {
			return nil, err
		}
		s, err := c.answer(m)
		if err != nil && !errors.Is(err, ErrServer) {
			return nil, err
		}
		if err == nil {
			got[m.number] = s
		}
	}
	return got, nil
}

// slack is what an answer to TOP or RETR may have beyond twice the message's
// size (its stuffing), in bytes: a server that never ends is left.
const slack = 16 << 20

// answer reads the answer to TOP or RETR of m.
func (c *Client) answer(m message) (summary, error) {
	if _, err := c.c.status(); err != nil {
		return summary{}, err
	}
	c.Read++
	parts := newParts()
	for left := 2*m.size + slack; ; {
		line, last, err := c.c.messageLine()
		if err != nil {
			return summary{}, err
		}
		if last {
			return parts.summary(c.o.Whole), nil
		}
		if left -= int64(len(line)) + 2; left < 0 {
			return summary{}, fmt.Errorf("%w: message %d does not end", ErrProtocol, m.number)
		}
		parts.line(line)
	}
}

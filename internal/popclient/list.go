package popclient

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"waypost/internal/poplist"
)

// List gives the maildrop's messages in the order of their numbers, each as soon
// as it is known. An error is the last that comes; the session is good for
// nothing then but Close, and so it is when the caller leaves before the end.
func (c *Client) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if c.broken {
			yield(Entry{}, fmt.Errorf("%w: the session has ended within an answer", ErrProtocol))
			return
		}
		c.broken = true
		left := false
		err := c.c.during(ctx, func() error {
			give := func(e Entry) bool {
				left = left || !yield(e, nil)
				return !left
			}
			if c.Extended() {
				return c.extended(give)
			}
			return c.scan(give)
		})
		switch {
		case left:
		case err != nil:
			yield(Entry{}, fmt.Errorf("list %s at %s: %w", c.o.User, c.o.Addr, err))
		default:
			c.broken = false
		}
	}
}

// extended reads the extended listing.
func (c *Client) extended(give func(Entry) bool) error {
	if _, err := c.c.command(poplist.Command); err != nil {
		return err
	}
	before := 0
	for n := 0; ; n++ {
		line, last, err := c.c.dataLine()
		if err != nil || last {
			return err
		}
		e, err := poplist.Parse(line)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		case e.Number <= before:
			return fmt.Errorf("%w: message %d comes after %d", ErrProtocol, e.Number, before)
		case n >= c.o.MaxMessages:
			return ErrTooMany
		}
		before = e.Number
		if !give(Entry{Entry: e, FlagsKnown: true}) {
			return nil
		}
	}
}

// message is what LIST and UIDL say of one.
type message struct {
	number int
	size   int64
	uidl   string
}

// numbers are LIST and UIDL together. A server without UIDL gives messages
// without ids, which no cache can know.
func (c *Client) numbers() ([]message, error) {
	var all []message
	at := make(map[int]int)
	err := c.pairs("LIST", func(number int, rest string) error {
		size, err := strconv.ParseUint(rest, 10, 56)
		if err != nil {
			return fmt.Errorf("%w: size %.40q", ErrProtocol, rest)
		}
		if len(all) > 0 && number <= all[len(all)-1].number {
			return fmt.Errorf("%w: message %d comes out of its order", ErrProtocol, number)
		}
		at[number] = len(all)
		all = append(all, message{number: number, size: int64(size)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = c.pairs("UIDL", func(number int, id string) error {
		odd := func(r rune) bool { return r <= ' ' || r >= 0x7f }
		if i, ok := at[number]; ok && len(id) <= maxUIDL && !strings.ContainsFunc(id, odd) {
			all[i].uidl = id
		}
		return nil
	})
	if errors.Is(err, ErrServer) {
		err = nil
	}
	return all, err
}

// maxUIDL bounds a unique id in bytes; RFC 1939, Section 7 has 70.
const maxUIDL = 255

// pairs reads an answer of lines "number value".
func (c *Client) pairs(command string, take func(number int, value string) error) error {
	if _, err := c.c.command(command); err != nil {
		return err
	}
	for n := 0; ; n++ {
		line, last, err := c.c.dataLine()
		if err != nil || last {
			return err
		}
		if n >= c.o.MaxMessages {
			return ErrTooMany
		}
		// Behind the value there may be more (RFC 1939, Section 5, LIST).
		f := strings.Fields(line)
		if len(f) < 2 {
			return fmt.Errorf("%w: %s has %.80q", ErrProtocol, command, line)
		}
		number, err := strconv.ParseUint(f[0], 10, 31)
		if err != nil || number == 0 {
			return fmt.Errorf("%w: %s has %.80q", ErrProtocol, command, line)
		}
		if err := take(int(number), f[1]); err != nil {
			return err
		}
	}
}

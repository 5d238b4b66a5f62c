package lmtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// chunkBytes is the size of a BDAT chunk.
const chunkBytes = 64 << 10

// Data begins the message (BDAT where the server offers CHUNKING, else DATA).
// A *ReplyError is a refusal of DATA; the connection is still of use then.
func (c *Client) Data() (*DataWriter, error) {
	d := &DataWriter{c: c}
	if _, ok := c.Ext("CHUNKING"); ok {
		d.chunk = make([]byte, 0, chunkBytes)
		return d, nil
	}
	if err := c.send("DATA"); err != nil {
		return nil, err
	}
	r, err := c.reply()
	if err != nil {
		return nil, fmt.Errorf("DATA: %w", err)
	}
	if r.Code != 354 {
		return nil, &ReplyError{"DATA", r}
	}
	d.dots = &dotWriter{w: c.w}
	return d, nil
}

// DataWriter takes the message. Its bytes must have CRLF line endings. Nothing
// is delivered before Finish; to deliver nothing, close the Client instead.
type DataWriter struct {
	c     *Client
	dots  *dotWriter // DATA
	chunk []byte     // BDAT, not yet sent
	owed  bool       // a reply to a chunk is outstanding
	err   error
}

// Write sends bytes of the message. A *ReplyError says that the server refused
// a chunk; the transaction is over then, and Reset may follow.
func (d *DataWriter) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.dots != nil {
		if d.err = d.dots.write(p); d.err != nil {
			return 0, d.err
		}
		return len(p), nil
	}
	n := 0
	for len(p) > 0 {
		if len(d.chunk) == cap(d.chunk) {
			if d.err = d.sendChunk(false); d.err != nil {
				return n, d.err
			}
		}
		k := min(len(p), cap(d.chunk)-len(d.chunk))
		d.chunk = append(d.chunk, p[:k]...)
		p, n = p[k:], n+k
	}
	return n, nil
}

// sendChunk sends what is gathered (RFC 3030, Section 2). One chunk may be
// under way while the next is gathered; more could hide a refusal for long.
func (d *DataWriter) sendChunk(last bool) error {
	if err := d.chunkReply(); err != nil {
		return err
	}
	cmd := "BDAT " + strconv.Itoa(len(d.chunk))
	if last {
		cmd += " LAST"
	}
	w := d.c.w
	w.WriteString(cmd + "\r\n")
	w.Write(d.chunk)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	d.chunk, d.owed = d.chunk[:0], !last
	return nil
}

func (d *DataWriter) chunkReply() error {
	if !d.owed {
		return nil
	}
	d.owed = false
	return d.c.expect("BDAT")
}

// Finish ends the message and gives the reply to each accepted recipient, in
// the order of their RCPTs; with Options.SMTP, one. With an error, those
// replies that came are given, and the others' outcome is not known.
func (d *DataWriter) Finish() ([]Reply, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.err = d.end(); d.err != nil {
		return nil, d.err
	}
	d.err = errors.New("message is finished")
	want := d.c.accepted
	if d.c.o.SMTP {
		want = 1
	}
	d.c.accepted = 0
	replies := make([]Reply, 0, want)
	until := time.Now().Add(d.c.o.DataTimeout)
	for range want {
		r, err := d.c.replyWithin(time.Until(until))
		if err != nil {
			return replies, fmt.Errorf("end of message: %w", err)
		}
		replies = append(replies, r)
	}
	return replies, nil
}

func (d *DataWriter) end() error {
	if d.dots == nil {
		return d.sendChunk(true)
	}
	if err := d.dots.end(); err != nil {
		return err
	}
	if err := d.c.w.Flush(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// dotWriter stuffs leading dots (RFC 5321, Section 4.5.2). Only CRLF ends a
// line; anything else passes unchanged.
type dotWriter struct {
	w io.Writer
	// started is false before the first byte; last are the last two bytes.
	started bool
	last    [2]byte
}

func (d *dotWriter) lineStart() bool { return !d.started || d.last == [2]byte{'\r', '\n'} }

func (d *dotWriter) write(p []byte) error {
	for len(p) > 0 {
		if p[0] == '.' && d.lineStart() {
			if _, err := d.w.Write([]byte{'.'}); err != nil {
				return fmt.Errorf("send message: %w", err)
			}
		}
		n := bytes.IndexByte(p, '\n') + 1
		if n == 0 {
			n = len(p)
		}
		if _, err := d.w.Write(p[:n]); err != nil {
			return fmt.Errorf("send message: %w", err)
		}
		if n == 1 {
			d.last = [2]byte{d.last[1], p[0]}
		} else {
			d.last = [2]byte{p[n-2], p[n-1]}
		}
		d.started = true
		p = p[n:]
	}
	return nil
}

func (d *dotWriter) end() error {
	tail := ".\r\n"
	if !d.lineStart() {
		tail = "\r\n" + tail
	}
	if _, err := io.WriteString(d.w, tail); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

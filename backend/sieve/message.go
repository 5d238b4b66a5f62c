package sieve

import (
	"fmt"
	"io"
	"sync"
)

// Message is what a script looks at. Its methods may be called by several runs
// at once, one after another each.
type Message interface {
	// Header gives the header; it is asked once a run. Have it made by
	// ReadHeader, and made once for all recipients of a message.
	Header() (*Header, error)
	// Size is the message's size in bytes, with CRLF.
	Size() int64
	// Open opens the whole message, with CRLF. Only body tests ask.
	Open() (io.ReadSeekCloser, error)
}

// NewMessage makes a Message of something that can be opened; its header is
// read when first asked for, and once.
func NewMessage(size int64, open func() (io.ReadSeekCloser, error)) Message {
	return &opened{size: size, open: open}
}

type opened struct {
	size int64
	open func() (io.ReadSeekCloser, error)

	once   sync.Once
	header *Header
	err    error
}

func (o *opened) Size() int64                      { return o.size }
func (o *opened) Open() (io.ReadSeekCloser, error) { return o.open() }

func (o *opened) Header() (*Header, error) {
	o.once.Do(func() {
		r, err := o.open()
		if err != nil {
			o.err = fmt.Errorf("open message: %w", err)
			return
		}
		o.header, o.err = ReadHeader(r)
		if err := r.Close(); o.err == nil {
			o.err = err
		}
	})
	return o.header, o.err
}

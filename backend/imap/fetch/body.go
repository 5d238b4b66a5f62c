package fetch

import (
	"fmt"
	"io"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// opened is the message being read, if it was opened.
type opened struct {
	mailbox.Body
	header *mime.Part // of the header alone
	buffer *[]byte
}

func (o *opened) open(a *answer) (err error) {
	if o.Body == nil {
		o.Body, err = a.src.Open(a.uid)
	}
	return err
}

// close gives all back. What was only read has nothing to lose by an error.
func (o *opened) close(r *Request) {
	if o.Body != nil {
		_ = o.Body.Close()
	}
	if o.buffer != nil {
		r.buffers.Put(o.buffer)
	}
}

func (o *opened) seek(to int64) error {
	if _, err := o.Seek(to, io.SeekStart); err != nil {
		return fmt.Errorf("seek: %w", err)
	}
	return nil
}

// stream copies all of src. Hidden methods would let io choose a buffer of its own.
func (o *opened) stream(r *Request, w io.Writer, src io.Reader) (int64, error) {
	if o.buffer == nil {
		o.buffer = r.buffers.Get().(*[]byte)
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, *o.buffer)
}

// copy writes n bytes from an offset on.
func (o *opened) copy(r *Request, w io.Writer, from, n int64) error {
	if n == 0 {
		return nil
	}
	if err := o.seek(from); err != nil {
		return err
	}
	written, err := o.stream(r, w, io.LimitReader(o.Body, n))
	if err == nil && written < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// scanHeader gives the header, and where the body is.
func (o *opened) scanHeader() (*mime.Part, error) {
	if o.header != nil {
		return o.header, nil
	}
	if err := o.seek(0); err != nil {
		return nil, err
	}
	p, err := mime.ScanHeader(o.Body)
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	p.Body.End = o.WireSize()
	o.header = p
	return p, nil
}

// copyFields writes the fields that the section asks for, of the header at at.
func (o *opened) copyFields(w io.Writer, at mime.Range, s *section) error {
	if err := o.seek(at.Start); err != nil {
		return err
	}
	return mime.CopyFields(w, io.LimitReader(o.Body, at.Len()), s.names, s.spec == fieldsNot)
}

// decode writes a part's content with its transfer encoding undone.
func (o *opened) decode(r *Request, w io.Writer, p piece) error {
	if err := o.seek(p.at.Start); err != nil {
		return err
	}
	src := &source{r: io.LimitReader(o.Body, p.at.Len())}
	content, ok := p.part.Decode(src)
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknownEncoding, p.part.Encoding)
	}
	_, err := o.stream(r, w, content)
	if src.err != nil {
		return src.err
	}
	return err
}

// source remembers the error of its reader, which decoders may take for their own.
type source struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

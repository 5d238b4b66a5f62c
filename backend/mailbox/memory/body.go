package memory

import "io"

// body reads LF data with CRLF line ends; a CRLF in the data stays one.
type body struct {
	data []byte
	wire int64
	at   int
	cr   bool // the CR for data[at] has been given
}

func (b *body) WireSize() int64 { return b.wire }
func (b *body) Close() error    { return nil }

func (b *body) Rewind() error {
	b.at, b.cr = 0, false
	return nil
}

func (b *body) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && b.at < len(b.data) {
		c := b.data[b.at]
		if c == '\n' && !b.cr && (b.at == 0 || b.data[b.at-1] != '\r') {
			p[n] = '\r'
			n++
			b.cr = true
			continue
		}
		p[n] = c
		n++
		b.at++
		b.cr = false
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

package memory

import "bytes"

// body reads a message's bytes as they go out.
type body struct{ *bytes.Reader }

func (b body) WireSize() int64 { return b.Size() }
func (b body) Close() error    { return nil }

// wire gives LF data CRLF line ends; a CRLF in the data stays one.
func wire(data []byte) []byte {
	out := make([]byte, 0, len(data)+bytes.Count(data, []byte("\n")))
	for i, c := range data {
		if c == '\n' && (i == 0 || data[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}

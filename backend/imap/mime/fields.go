package mime

import (
	"bytes"
	"io"
	"strings"
)

// Field is a header field: its name in lower case, its value unfolded and with
// its encoded words decoded.
type Field struct{ Name, Value string }

// Fields reads a header and gives its fields; each is cut off at 32 KiB, and
// all end at 1 MiB.
func Fields(header io.Reader) ([]Field, error) {
	lines := newLineReader(io.LimitReader(header, headerBudget))
	var out []Field
	var text []byte
	name := ""
	flush := func() {
		if name != "" {
			out = append(out, Field{name, Words(clean(text))})
		}
		name, text = "", text[:0]
	}
	for {
		piece, err := lines.next()
		if err == io.EOF || err == nil && lines.first && blank(piece) {
			flush()
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if lines.first && piece[0] != ' ' && piece[0] != '\t' {
			flush()
			if n, ok := fieldName(piece); ok {
				name = strings.ToLower(n)
				piece = piece[bytes.IndexByte(piece, ':')+1:]
			}
		}
		if name != "" {
			text = append(text, piece[:min(len(piece), maxField-len(text))]...)
		}
	}
}

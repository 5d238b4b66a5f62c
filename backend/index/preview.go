package index

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"

	"waypost/backend/mime"
)

const (
	// previewLength is in characters (RFC 8970, Section 3.2).
	previewLength = 200
	// How much of a part is looked at, in encoded bytes.
	maxPlainBytes = 64 << 10
	maxHTMLBytes  = 256 << 10
)

// preview reads the beginning of the text.
func (m *scratch) preview(r io.ReadSeeker, root *mime.Part) (string, error) {
	var plain, rich *mime.Part
	texts(root, func(p *mime.Part) {
		switch {
		case p.Subtype == "plain" && plain == nil:
			plain = p
		case p.Subtype == "html" && rich == nil:
			rich = p
		}
	})
	for _, c := range []struct {
		part *mime.Part
		max  int64
		take func(io.Reader, bool) string
	}{{plain, maxPlainBytes, m.plainPreview}, {rich, maxHTMLBytes, htmlPreview}} {
		if c.part == nil {
			continue
		}
		for _, quotes := range []bool{false, true} {
			if _, err := r.Seek(c.part.Body.Start, io.SeekStart); err != nil {
				return "", err
			}
			src := &source{r: io.LimitReader(r, min(c.part.Body.Len(), c.max))}
			m.lines.Reset(src)
			text := c.take(c.part.Text(m.lines), quotes)
			if src.err != nil || text != "" {
				return text, src.err
			}
		}
	}
	return "", nil
}

// source remembers the error of its reader, which decoders may hide.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// texts visits the text parts that are to be read, enclosed messages left out.
func texts(p *mime.Part, visit func(*mime.Part)) {
	for _, c := range p.Children {
		texts(c, visit)
	}
	if p.Type == "text" && (p.Disposition == nil || p.Disposition.Value != "attachment") {
		visit(p)
	}
}

// plainPreview leaves out quotes, unless they are asked for, and the signature.
func (m *scratch) plainPreview(r io.Reader, quotes bool) string {
	var c collapser
	m.text.Reset(r)
	var held []byte // a line that may announce a quote
	for !c.full() {
		// Of a line longer than the buffer the rest is taken for another.
		raw, err := m.text.ReadSlice('\n')
		line := bytes.TrimRight(raw, "\r\n")
		trimmed := bytes.TrimSpace(line)
		if string(line) == "-- " {
			break
		}
		quoted := bytes.HasPrefix(line, []byte(">"))
		switch {
		case quoted && !quotes:
			held = nil
		case quoted:
			c.line(bytes.TrimLeft(line, "> "))
		case len(trimmed) > 0:
			c.line(held)
			if held = nil; bytes.HasSuffix(trimmed, []byte(":")) && !quotes {
				held = bytes.Clone(line)
			} else {
				c.line(line)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	c.line(held)
	return c.String()
}

// htmlPreview leaves out tags, what is not shown, and, unless they are asked for,
// quotes.
func htmlPreview(r io.Reader, quotes bool) string {
	var c collapser
	z := html.NewTokenizer(r)
	z.SetMaxBuf(maxHTMLBytes)
	quoted, hidden := 0, false
	for !c.full() {
		switch z.Next() {
		case html.ErrorToken:
			return c.String()
		case html.TextToken:
			if !hidden && quoted == 0 {
				c.add(z.Text())
			}
		case html.StartTagToken:
			tag, _ := z.TagName()
			if hidden = unseen(string(tag)); string(tag) == "blockquote" && !quotes {
				quoted++
			}
			c.tag(string(tag))
		case html.EndTagToken:
			tag, _ := z.TagName()
			if hidden = false; string(tag) == "blockquote" && quoted > 0 {
				quoted--
			}
			c.tag(string(tag))
		case html.SelfClosingTagToken:
			tag, _ := z.TagName()
			c.tag(string(tag))
		}
	}
	return c.String()
}

// unseen reports the elements whose text, which comes as one token, is not shown.
func unseen(tag string) bool {
	switch tag {
	case "style", "script", "title", "textarea", "noscript", "iframe", "noembed", "noframes":
		return true
	}
	return false
}

// collapser gathers a preview: runs of white space become one space, what has no
// width is left out, and so is what is over the length.
type collapser struct {
	b     []byte
	n     int // characters in b
	space bool
}

func (c *collapser) full() bool { return c.n >= previewLength }

// tag stands for a tag: one that words may be built over parts nothing.
func (c *collapser) tag(name string) {
	switch name {
	case "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "del", "em", "font", "i", "ins", "kbd", "mark",
		"q", "s", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr":
		return
	}
	c.space = true
}

// line adds a line; words do not go on over its end.
func (c *collapser) line(text []byte) {
	c.add(text)
	c.space = c.space || text != nil
}

func (c *collapser) add(text []byte) {
	if c.b == nil {
		c.b = make([]byte, 0, previewLength+previewLength/4)
	}
	for i := 0; i < len(text) && !c.full(); {
		r, size := utf8.DecodeRune(text[i:])
		i += size
		switch {
		case ' ' < r && r < 0x7f: // as nearly all are
		case unicode.IsSpace(r):
			c.space = true
			continue
		case r == '\u200c' || r == '\u200d': // joiners are part of words, and fill of advertisements
			if c.n == 0 || c.space {
				continue
			}
		case r == utf8.RuneError, r == '\u034f', unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co):
			continue
		}
		if c.space && c.n > 0 {
			c.b = append(c.b, ' ')
			c.n++
		}
		if c.space = false; !c.full() {
			c.b = utf8.AppendRune(c.b, r)
			c.n++
		}
	}
}

func (c *collapser) String() string { return string(bytes.TrimSpace(c.b)) }

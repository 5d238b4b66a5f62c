package headerfield

import (
	"encoding/base64"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
)

// Decode gives a field's value as UTF-8 with its encoded words (RFC 2047, and RFC 2231,
// Section 5 with a language) decoded and the white space between two of them left out. What
// is no encoded word stays as it is. Words that divide a character between them are read as
// one; a character set that nobody knows costs no other word; what is wrong inside of a
// word is replaced.
func Decode(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	var out strings.Builder
	var run run
	for s != "" {
		i := strings.Index(s, "=?")
		if i < 0 {
			break
		}
		w, rest, ok := next(s[i:])
		if !ok {
			run.end(&out)
			out.WriteString(s[:i+2])
			s = s[i+2:]
			continue
		}
		if !run.open || strings.Trim(s[:i], " \t\r\n") != "" {
			run.end(&out)
			out.WriteString(s[:i])
		}
		run.add(&out, w)
		s = rest
	}
	run.end(&out)
	out.WriteString(s)
	return out.String()
}

// word is an encoded word with its encoding undone: bytes of a character set.
type word struct {
	charset string // in lower case
	content []byte
}

// maxWord is how many bytes a word may have. RFC 2047 allows 75; some put a whole subject
// into one. It bounds what a field of beginnings without ends costs.
const maxWord = 4096

// next takes an encoded word, with whose "=?" s begins.
func next(s string) (w word, rest string, ok bool) {
	charset, after, ok := strings.Cut(s[2:min(len(s), maxWord)], "?")
	if !ok || charset == "" || strings.ContainsAny(charset, " \t\r\n=") || len(after) < 2 || after[1] != '?' {
		return w, s, false
	}
	text, _, ok := strings.Cut(after[2:], "?=")
	if !ok {
		return w, s, false
	}
	rest = s[len("=?")+len(charset)+len("?Q?")+len(text)+len("?="):]
	charset, _, _ = strings.Cut(charset, "*") // RFC 2231, Section 5: the language
	w.charset = strings.ToLower(charset)
	switch after[0] {
	case 'B', 'b':
		w.content, ok = fromBase64(text)
	case 'Q', 'q':
		w.content, ok = fromQ(text), true
	default:
		ok = false
	}
	return w, rest, ok
}

// letters are those of base64.
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// fromBase64 takes what there is before the first thing that is wrong. Many cut the text
// anywhere, and many pad it or do not.
func fromBase64(text string) ([]byte, bool) {
	if text != "" && !strings.ContainsRune(letters, rune(text[0])) {
		return nil, false
	}
	text = strings.TrimRight(strings.Map(func(r rune) rune {
		if r <= ' ' {
			return -1
		}
		return r
	}, text), "=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, _ := base64.RawStdEncoding.Decode(out, []byte(text))
	return out[:n], n > 0 || text == ""
}

// fromQ decodes RFC 2047, Section 4.2. A "=" without two figures stays.
func fromQ(text string) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '_':
			out = append(out, ' ')
		case c == '=' && i+2 < len(text) && figure(text[i+1]) >= 0 && figure(text[i+2]) >= 0:
			out = append(out, byte(figure(text[i+1])<<4|figure(text[i+2])))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out
}

func figure(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// run is encoded words of one character set with nothing between them. RFC 2047, Section
// 5 wants whole characters in each; many programs cut at a length instead.
type run struct {
	word
	open bool
}

func (r *run) add(out *strings.Builder, w word) {
	if r.open && r.charset == w.charset {
		r.content = append(r.content, w.content...)
		return
	}
	r.end(out)
	r.word, r.open = w, true
}

func (r *run) end(out *strings.Builder) {
	if r.open {
		out.WriteString(text(r.charset, r.content))
	}
	*r = run{}
}

// text reads bytes of a character set. Of one that nobody knows, and of ASCII that is
// none, they are UTF-8 if they can be, else Windows-1252, in which ASCII shows.
func text(charset string, content []byte) string {
	switch charset {
	case "utf-8", "utf8":
		return strings.ToValidUTF8(string(content), "\ufffd")
	case "us-ascii", "ascii":
	default:
		if enc, err := htmlindex.Get(charset); err == nil {
			if s, err := enc.NewDecoder().String(string(content)); err == nil {
				return s
			}
		}
	}
	if utf8.Valid(content) {
		return string(content)
	}
	return windows1252(string(content))
}

func windows1252(s string) string {
	if out, err := charmap.Windows1252.NewDecoder().String(s); err == nil {
		return out
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// Decoder is for those who take a *mime.WordDecoder, such as net/mail: character sets as
// above. It reads each word by itself.
func Decoder() *mime.WordDecoder {
	return &mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		charset, _, _ = strings.Cut(charset, "*")
		return strings.NewReader(text(strings.ToLower(charset), content)), nil
	}}
}

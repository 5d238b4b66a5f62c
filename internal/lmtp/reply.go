package lmtp

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

// Reply is a server's answer (RFC 5321, Section 4.2). Enhanced is its enhanced
// status code (RFC 3463), like "5.1.1", or empty. Text is the rest, the lines
// of a reply of several lines joined by "\n".
type Reply struct {
	Code     int
	Enhanced string
	Text     string
}

// OK reports a positive completion, 2yz.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// Permanent reports a permanent refusal, 5yz.
func (r Reply) Permanent() bool { return r.Code/100 == 5 }

// String is the reply in one line, for logs.
func (r Reply) String() string {
	s := fmt.Sprintf("%d", r.Code)
	if r.Enhanced != "" {
		s += " " + r.Enhanced
	}
	if r.Text != "" {
		s += " " + strings.ReplaceAll(r.Text, "\n", " / ")
	}
	return s
}

// ReplyError is a reply where none but a positive one lets the session go on.
type ReplyError struct {
	Command string
	Reply   Reply
}

func (e *ReplyError) Error() string { return e.Command + ": " + e.Reply.String() }

// Errors of the protocol; test with errors.Is.
var (
	// ErrReply is a reply that is none of RFC 5321, Section 4.2, or too long.
	ErrReply = errors.New("malformed reply")
	// ErrSyntax is an address or parameter that no command can carry.
	ErrSyntax = errors.New("cannot be sent in a command")
)

// readReply reads one reply of at most max bytes, CRLFs included. A line end
// without CR is forgiven: the far end is a node of the operator's.
func readReply(r *bufio.Reader, max int) (Reply, error) {
	var reply Reply
	var text []string
	for used := 0; ; {
		line, err := readLine(r, max-used)
		if err != nil {
			return Reply{}, err
		}
		used += len(line) + 2
		code, last, rest, err := parseLine(line)
		if err != nil {
			return Reply{}, err
		}
		if reply.Code == 0 {
			reply.Code = code
		} else if code != reply.Code {
			return Reply{}, fmt.Errorf("%w: code %d after %d", ErrReply, code, reply.Code)
		}
		enhanced, rest := cutEnhanced(code, rest)
		if reply.Enhanced == "" {
			reply.Enhanced = enhanced
		}
		text = append(text, rest)
		if last {
			reply.Text = strings.Join(text, "\n")
			return reply, nil
		}
	}
}

func readLine(r *bufio.Reader, max int) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > max {
			return "", fmt.Errorf("%w: too long", ErrReply)
		}
		if err == nil {
			return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
}

// parseLine takes "250-text", "250 text" and "250" apart.
func parseLine(line string) (code int, last bool, rest string, err error) {
	if len(line) < 3 {
		return 0, false, "", fmt.Errorf("%w: %.80q", ErrReply, line)
	}
	for _, c := range []byte(line[:3]) {
		if c < '0' || c > '9' {
			return 0, false, "", fmt.Errorf("%w: %.80q", ErrReply, line)
		}
		code = code*10 + int(c-'0')
	}
	if code < 200 || code > 599 {
		return 0, false, "", fmt.Errorf("%w: code %d", ErrReply, code)
	}
	switch {
	case len(line) == 3:
		return code, true, "", nil
	case line[3] == ' ':
		return code, true, line[4:], nil
	case line[3] == '-':
		return code, false, line[4:], nil
	}
	return 0, false, "", fmt.Errorf("%w: %.80q", ErrReply, line)
}

// cutEnhanced splits an enhanced code of the reply's own class off the text
// (RFC 2034, Section 4).
func cutEnhanced(code int, text string) (enhanced, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != string(rune('0'+code/100)) {
		return "", text
	}
	for _, p := range parts {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "", text
		}
	}
	return word, rest
}

package lmtp

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"time"
)

// traceHeader makes the lines that go in front of a message: the final
// Return-Path and our Received line (RFC 5321, Section 4.4), with LF line ends.
// The message may be for several recipients, so that there is no "for".
// from and by are those of the session.
func traceHeader(sender, from, by, id string, utf8 bool, now time.Time) string {
	with := "LMTP"
	if utf8 {
		with = "UTF8LMTP" // RFC 6531, Section 4.3
	}
	var date [len(time.RFC1123Z) + 8]byte
	return "Return-Path: <" + sender + ">\nReceived: " + from + "by " + by + " (Waypost) with " + with + " id " + id +
		";\n\t" + string(now.AppendFormat(date[:0], time.RFC1123Z)) + "\n"
}

// traceFrom is what a trace line says of a peer: nothing of one without a name.
func traceFrom(peer string) string {
	peer = traceWord(peer[strings.LastIndexByte(peer, '/')+1:]) // without the role
	if peer == "" {
		return ""
	}
	return "from " + peer + " "
}

// traceWord keeps of a name what may stand in a trace line as one word.
func traceWord(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".-_:[]", r):
			return r
		}
		return -1
	}, s)
}

const returnPath = "return-path:"

// traceFields are what servers put above a message; a message's own
// Return-Path stands among them.
func traceFields() []string {
	return []string{"received:", "received-spf:", "authentication-results:", returnPath}
}

// longestTraceField is the length of "authentication-results:".
const longestTraceField = 23

// pathReader removes the Return-Path fields from the leading run of trace
// fields of a message, whatever its line ends: there is one Return-Path, the one
// that final delivery writes (RFC 5321, Section 4.4). Everything else passes
// unchanged.
type pathReader struct {
	br *bufio.Reader
	// state of the leading run
	leading, bol, drop bool
}

func newPathReader(r io.Reader) *pathReader {
	return &pathReader{br: bufio.NewReaderSize(r, 512), leading: true, bol: true}
}

func (t *pathReader) Read(p []byte) (int, error) {
	for t.leading && len(p) > 0 {
		if t.bol {
			t.startLine()
			continue
		}
		if _, err := t.br.Peek(1); err != nil {
			return 0, err
		}
		window, _ := t.br.Peek(min(t.br.Buffered(), len(p)))
		if i := bytes.IndexByte(window, '\n'); i >= 0 {
			window, t.bol = window[:i+1], true
		}
		n := 0
		if !t.drop {
			n = copy(p, window)
		}
		t.br.Discard(len(window))
		if n > 0 {
			return n, nil
		}
	}
	// Past the trace fields; a read as large as the buffer goes around it.
	return t.br.Read(p)
}

// startLine decides what becomes of the line that begins here.
func (t *pathReader) startLine() {
	t.bol = false
	head, _ := t.br.Peek(longestTraceField) // an error shows at the next read
	if len(head) > 0 && (head[0] == ' ' || head[0] == '\t') {
		return // a folded line shares the fate of its field
	}
	for _, name := range traceFields() {
		if len(head) >= len(name) && strings.EqualFold(string(head[:len(name)]), name) {
			t.drop = name == returnPath
			return
		}
	}
	t.leading, t.drop = false, false
}

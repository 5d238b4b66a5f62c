package hops

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// What Waypost says, with other letters where they are many and mean nothing here.
const (
	greetIMAP = "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE STARTTLS AUTH=PLAIN AUTH=LOGIN] Waypost ready.\r\n"
	greetPOP3 = "+OK Waypost ready.\r\n"
	selected  = "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n" +
		"* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] flags that can be set\r\n" +
		"* %d EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1795392610] UIDs valid\r\n* OK [UIDNEXT %d] predicted next UID\r\n" +
		"* OK [HIGHESTMODSEQ 1882605601423361] highest\r\n* OK [MAILBOXID (3f0272aae9aa3fe6bfe140b3042de5f5)] ok\r\n"
	// capabilityBytes is how long the list is that Waypost gives after LOGIN.
	capabilityBytes = 534
)

// server answers for one Maildir.
type server struct {
	mail     func() (*maildrop, error) // once: Maildirs come after their server
	loggedIn string                    // after the tag
}

func newServer(maildir string) *server {
	return &server{mail: sync.OnceValues(func() (*maildrop, error) { return openMaildrop(maildir) }),
		loggedIn: " OK [CAPABILITY " + strings.Repeat("x", capabilityBytes) + "] Logged in.\r\n"}
}

// maildrop is what there was in a Maildir.
type maildrop struct {
	paths    []string // of messages, in the order of their names
	stat     string   // the answer to STAT
	selected string   // the answer to SELECT before its tagged line
}

func openMaildrop(dir string) (*maildrop, error) {
	cur := filepath.Join(dir, "cur")
	entries, err := os.ReadDir(cur)
	if err != nil {
		return nil, err
	}
	m := &maildrop{}
	var size int64
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return nil, err
		}
		size += st.Size()
		m.paths = append(m.paths, filepath.Join(cur, e.Name()))
	}
	m.stat = fmt.Sprintf("+OK %d %d\r\n", len(m.paths), size)
	m.selected = fmt.Sprintf(selected, len(m.paths), len(m.paths)+1)
	return m, nil
}

// session is one client's; a goroutine has it.
type session struct {
	*server
	out   []byte
	piece []byte // what is read from files
}

// answer is what is said to a line, good until the next, and whether it is the last word.
func (s *session) answer(line []byte) (said []byte, over bool, err error) {
	word, rest, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(" "))
	switch string(word) {
	case "USER":
		return s.say("+OK Send PASS.\r\n"), false, nil
	case "PASS":
		return s.say("+OK Logged in.\r\n"), false, nil
	case "QUIT":
		return s.say("+OK bye\r\n"), true, nil
	case "STAT":
		m, err := s.mail()
		if err != nil {
			return nil, true, err
		}
		return s.say(m.stat), false, nil
	case "RETR":
		said, err := s.message(rest)
		return said, false, err
	}
	tag := string(word)
	command, _, _ := bytes.Cut(rest, []byte(" "))
	switch string(command) {
	case "LOGIN":
		return s.say(tag, s.loggedIn), false, nil
	case "SELECT":
		m, err := s.mail()
		if err != nil {
			return nil, true, err
		}
		return s.say(m.selected, tag, " OK [READ-WRITE] SELECT completed\r\n"), false, nil
	case "LOGOUT":
		return s.say("* BYE logging out\r\n", tag, " OK LOGOUT completed\r\n"), true, nil
	}
	return s.say(tag, " BAD no such command\r\n"), false, nil
}

func (s *session) say(texts ...string) []byte {
	s.out = s.out[:0]
	for _, t := range texts {
		s.out = append(s.out, t...)
	}
	return s.out
}

// message is the answer to RETR.
func (s *session) message(argument []byte) ([]byte, error) {
	m, err := s.mail()
	if err != nil {
		return nil, err
	}
	n := 0
	for _, d := range argument {
		if d < '0' || d > '9' || n > len(m.paths) {
			n = 0
			break
		}
		n = 10*n + int(d-'0')
	}
	if n < 1 || n > len(m.paths) {
		return s.say("-ERR no such message\r\n"), nil
	}
	if err := s.read(m.paths[n-1]); err != nil {
		return nil, err
	}
	wire := len(s.piece) + bytes.Count(s.piece, []byte("\n"))
	s.out = fmt.Appendf(s.out[:0], "+OK %d octets\r\n", wire)
	s.out = appendDotted(s.out, s.piece)
	return s.out, nil
}

// read reads a whole file.
func (s *session) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.piece == nil {
		s.piece = make([]byte, 0, 16<<10)
	}
	s.piece = s.piece[:0]
	for {
		if len(s.piece) == cap(s.piece) {
			s.piece = append(s.piece, 0)[:len(s.piece)]
		}
		n, err := f.Read(s.piece[len(s.piece):cap(s.piece)])
		s.piece = s.piece[:len(s.piece)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// appendDotted adds a text whose lines end with LF as an answer of many lines (RFC 1939, Section
// 3): with CRLF, a dot before lines that begin with one, and the last dot.
func appendDotted(out, text []byte) []byte {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line = text[:i]
			text = text[i+1:]
		} else {
			text = nil
		}
		if len(line) > 0 && line[0] == '.' {
			out = append(out, '.')
		}
		out = append(append(out, line...), '\r', '\n')
	}
	return append(out, ".\r\n"...)
}

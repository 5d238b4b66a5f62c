package pop3

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxCommand bounds a command line with its CRLF (RFC 2449, Section 4).
const maxCommand = 255

// readBuffer is what can be pipelined without a further read; a line longer
// than that ends the session.
const readBuffer = 1 << 10

// command is a command line: the keyword in upper case, and its arguments.
type command struct {
	name string
	args []string
}

// parseCommand reads a line without its end. ok is false for what no command
// looks like.
func parseCommand(line string) (command, bool) {
	for i := range len(line) {
		if line[i] < ' ' || line[i] == 0x7f {
			return command{}, false
		}
	}
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return command{}, false
	}
	return command{strings.ToUpper(fields[0]), fields[1:]}, true
}

// maxNumber stands for every number above it: clients ask for TOP of as many
// lines as an integer of theirs can hold.
const maxNumber = 999_999_999

// number reads a decimal number of at most twenty digits.
func number(s string) (int, bool) {
	if len(s) == 0 || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxNumber {
		return maxNumber, true
	}
	return int(n), true
}

// readCommand waits for the next line. A bare LF ends it too: a client that is
// logged in can smuggle nothing but its own commands. ok is false for a line
// that is no command.
func (s *session) readCommand() (cmd command, ok bool, err error) {
	s.link.Allow(s.allowed, s.br.Buffered() == 0)
	line, err := s.br.ReadSlice('\n')
	if len(line) > 0 { // half a line has to be kept, too
		s.line = slices.Clone(line)
	}
	s.allowed = s.srv.opt.Idle
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return cmd, false, fmt.Errorf("%w: a line of over %d bytes", ErrAbuse, readBuffer)
	case err == io.EOF && len(line) > 0:
		return cmd, false, io.ErrUnexpectedEOF
	case err != nil:
		return cmd, false, err
	case len(line) > maxCommand:
		return cmd, false, nil
	}
	line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	cmd, ok = parseCommand(string(line))
	return cmd, ok, nil
}

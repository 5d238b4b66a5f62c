package managesieve

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"waypost/internal/auth"
	"waypost/proxy/prelogin"
)

// command is one command as read: the name in upper case, and its arguments,
// which are all strings before a login.
type command struct {
	name string
	args []string
}

// badCommand is answered with NO; the connection goes on.
type badCommand string

func (b badCommand) Error() string { return "bad command: " + string(b) }

// errLiteral: a literal was too long. Its bytes are on their way, nobody can tell
// the client to keep them, and they must not run as commands: the connection
// ends. Who sends a script before the login comes here.
var errLiteral = errors.New("literal too long")

// read reads a command with its literals, to the end of its last line, even if
// it is a bad one.
func (e *engine) read() (command, error) {
	line, err := e.c.ReadLine(e.limits.LineBytes)
	if err != nil {
		return command{}, err
	}
	// A literal is one even where the space before it is missing.
	end := bytes.IndexAny(line, " {")
	if end < 0 {
		end = len(line)
	}
	cmd := command{name: strings.ToUpper(string(line[:end]))}
	words, err := e.strings(string(line[end:]), e.limits.LineBytes-len(line))
	if err == nil && (cmd.name == "" || strings.Trim(cmd.name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
		err = badCommand("Malformed command.")
	}
	cmd.args = words
	return cmd, err
}

// strings takes the rest of a line, which is strings set off by spaces, with the
// literals that it announces and the lines behind them. left bounds those lines,
// auth.MaxResponseBytes all literals.
func (e *engine) strings(text string, left int) (words []string, err error) {
	room := auth.MaxResponseBytes
	for {
		before, length, more := announced(text)
		if err == nil {
			words, err = quoted(words, before)
		}
		if !more {
			return words, err
		}
		if err == nil && !strings.HasSuffix(before, " ") {
			err = badCommand("A space must come before a string.")
		}
		if length > room {
			return words, fmt.Errorf("%w: %w", prelogin.ErrLimits, errLiteral)
		}
		room -= length
		body, rerr := e.c.ReadFull(length)
		if rerr != nil {
			return words, rerr
		}
		words = append(words, string(body))
		line, rerr := e.c.ReadLine(left)
		if rerr != nil {
			return words, rerr
		}
		text = string(line)
		// Also an empty line costs, so that there is an end to them.
		if left -= len(line) + 2; left <= 0 {
			return words, prelogin.ErrLineTooLong
		}
	}
}

// announced splits the announcement of a literal, {n+}, from the end of a line
// (RFC 5804, Section 4); {n} is taken for the same. A length that is no number we
// can hold is reported as the largest one.
func announced(line string) (before string, length int, found bool) {
	open := strings.LastIndexByte(line, '{')
	if open < 0 || line[len(line)-1] != '}' {
		return line, 0, false
	}
	digits := strings.TrimSuffix(line[open+1:len(line)-1], "+")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return line, 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		n = 1<<31 - 1
	}
	return line[:open], int(n), true
}

// quoted appends the quoted strings of text, which are set off by spaces.
func quoted(words []string, text string) ([]string, error) {
	for {
		rest := strings.TrimLeft(text, " ")
		if rest == "" {
			return words, nil
		}
		if len(rest) == len(text) || rest[0] != '"' {
			return words, badCommand("Want strings, set off by spaces.")
		}
		var b strings.Builder
		i := 1
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' {
				i++
			}
			if i == len(rest) || rest[i] == 0 || rest[i] == '\r' {
				break
			}
			b.WriteByte(rest[i])
		}
		if i >= len(rest) || rest[i] != '"' {
			return words, badCommand("Malformed string.")
		}
		words, text = append(words, b.String()), rest[i+1:]
	}
}

// ask sends a challenge and reads the response: a string in a line of its own.
func (e *engine) ask(challenge []byte) (string, error) {
	if err := e.c.Write(quote(base64.StdEncoding.EncodeToString(challenge)) + "\r\n"); err != nil {
		return "", err
	}
	const quotes = 2
	line, err := e.c.ReadLine(auth.MaxResponseBytes + quotes + len("\r\n"))
	if err != nil {
		return "", err
	}
	words, err := e.strings(" "+string(line), e.limits.LineBytes)
	if err == nil && len(words) != 1 {
		err = badCommand("Want one string.")
	}
	if err != nil {
		return "", err
	}
	return words[0], nil
}

// quote makes a quoted string of a text of ours, or of an address of the user's.
func quote(text string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(text) + `"`
}

// literal is a string that may hold anything (RFC 5804, Section 4, literal-s2c).
func literal(text string) string { return fmt.Sprintf("{%d}\r\n%s", len(text), text) }

package simtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"waypost/backend/mailbox"
)

// mailClient is one IMAP client: a connection, its session, its view.
type mailClient struct {
	g    *stage
	name string
	addr *net.TCPAddr
	door *door
	run  *doorProc // where the connection is
	c    *end
	buf  []byte
	tag  int
	view *mailView // nil: no session
	bye  string
}

// errGone: the connection has ended.
var errGone = errors.New("the connection has ended")

// errRefused: a command that was not done.
var errRefused = errors.New("the client was told")

// live is the client's life: some commands, and a last look.
func (c *mailClient) live(ctx context.Context, commands int) {
	ctx = as(ctx, c.name)
	for i := 0; ctx.Err() == nil && (i < commands || c.g.mended.IsZero()); i++ {
		err := c.oneCommand(ctx, i)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !c.ended(ctx, err) {
			return
		}
		// Pauses are short, or long enough for a checkpoint.
		if sleep(ctx, time.Duration(100+c.tag*137%1900+i%2*6000)*time.Millisecond) != nil {
			return
		}
	}
	if c.g.step(ctx, c.name, "changes no more") != nil {
		return
	}
	c.g.changers--
	for ctx.Err() == nil {
		err := c.last(ctx)
		if err == nil || !c.ended(ctx, err) {
			return
		}
	}
}

// ended looks at why a session did; another one follows.
func (c *mailClient) ended(ctx context.Context, err error) bool {
	if c.g.step(ctx, c.name, "is told") != nil {
		return false
	}
	killed := c.run != nil && c.run.port.dead.Load()
	c.g.note(c.name, fmt.Sprintf("session ended, killed %v", killed))
	switch {
	case !errors.Is(err, errGone):
		c.g.fail("%s: %v", c.name, err)
	case c.view == nil:
		c.g.saw("a login was refused")
	case killed:
		c.g.saw("a proxy was killed")
	case c.bye == "":
		c.g.fail("I5: %s lost its connection without a word", c.name)
	case !c.g.harmed:
		c.g.fail("I5: %s was told %q, and nothing had happened", c.name, c.bye)
	case strings.Contains(c.bye, "away for a moment"):
		c.g.saw("BYE")
	default:
		c.g.fail("I5: %s was told %q", c.name, c.bye)
	}
	if c.c != nil {
		c.c.Close()
	}
	c.c, c.run, c.view, c.buf, c.bye = nil, nil, nil, nil, ""
	return sleep(ctx, time.Second) == nil
}

// begin connects, logs in and selects.
func (c *mailClient) begin(ctx context.Context) error {
	for {
		if err := c.g.step(ctx, c.name, "connects"); err != nil {
			return err
		}
		if c.door.run != nil {
			break
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	c.run = c.door.run
	near, far := c.g.net.connect(c.name, c.door.name, c.addr)
	c.c = near
	c.run.ServeIMAP(c.run.ctx, far)
	if line, err := c.line(time.Time{}); err != nil || !strings.HasPrefix(line, "* OK") {
		return errors.Join(err, c.odd(line))
	}
	switch _, err := c.command("LOGIN alice@example.test secret"); {
	case errors.Is(err, errRefused) && strings.Contains(err.Error(), "NO [UNAVAILABLE]"):
		return errGone // where the directory does not answer; there was no session yet
	case err != nil:
		return err
	}
	c.view = &mailView{}
	_, err := c.command("SELECT INBOX")
	return err
}

func (c *mailClient) odd(line string) error {
	if line == "" {
		return nil
	}
	return fmt.Errorf("%q was not expected", line)
}

// oneCommand is one of many.
func (c *mailClient) oneCommand(ctx context.Context, i int) error {
	if c.view == nil {
		if err := c.begin(ctx); err != nil {
			return err
		}
	}
	if err := c.g.step(ctx, c.name, "command"); err != nil {
		return err
	}
	which, pause := c.g.rng.IntN(9), c.g.upTo(6*time.Second)
	uid := uint32(0)
	if n := len(c.view.all); n > 0 {
		uid = c.view.all[c.g.rng.IntN(n)].uid
	}
	switch {
	case which == 0:
		return c.appends(ctx, fmt.Sprintf("%s-%d", c.name, i), i%30, pause)
	case which == 1 && uid != 0:
		_, err := c.command(fmt.Sprintf("UID STORE %d %sFLAGS (%s)", uid, []string{"+", "-"}[i%2], []string{`\Flagged`, `\Seen`, "word"}[i%3]))
		return err
	case which == 2 && uid != 0:
		c.g.gone[mailbox.UID(uid)] = true
		if _, err := c.command(fmt.Sprintf(`UID STORE %d +FLAGS (\Deleted)`, uid)); err != nil {
			return err
		}
		_, err := c.command(fmt.Sprintf("UID EXPUNGE %d", uid))
		return err
	case which <= 4:
		return c.idle(pause)
	case which == 5:
		return c.pipelined("NOOP", "NOOP", "CHECK")
	case which == 6:
		return c.learn()
	case which == 7 && uid != 0:
		_, err := c.command(fmt.Sprintf("UID FETCH %d (FLAGS BODY.PEEK[])", uid))
		return err
	}
	_, err := c.command("NOOP")
	return err
}

func (c *mailClient) appends(ctx context.Context, name string, cut int, pause time.Duration) error {
	text := "Subject: " + name + "\r\n\r\n" + strings.Repeat(name+"\r\n", 20)
	c.tag++
	tag := fmt.Sprint("t", c.tag)
	if err := c.say(fmt.Sprintf("%s APPEND INBOX {%d+}\r\n%s", tag, len(text), text[:cut])); err != nil {
		return err
	}
	if sleep(ctx, pause) != nil { // in the middle of the literal
		return ctx.Err()
	}
	if err := c.say(text[cut:] + "\r\n"); err != nil {
		return err
	}
	answer, err := c.until(tag)
	if err != nil {
		return err
	}
	m := appendUID.FindStringSubmatch(answer)
	if m == nil {
		return c.odd(answer)
	}
	uid, err := strconv.ParseUint(m[1], 10, 32)
	c.g.acks[name] = mailbox.UID(uid)
	return err
}

var appendUID = regexp.MustCompile(`\[APPENDUID \d+ (\d+)\]`)

// idle waits for news (RFC 2177).
func (c *mailClient) idle(d time.Duration) error {
	c.tag++
	tag := fmt.Sprint("t", c.tag)
	if err := c.say(tag + " IDLE\r\n"); err != nil {
		return err
	}
	until := time.Time{}
	for {
		line, err := c.line(until)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := c.say("DONE\r\n"); err != nil {
				return err
			}
			_, err := c.until(tag)
			return err
		case err != nil:
			return err
		case strings.HasPrefix(line, "+ ") && !until.IsZero():
			return fmt.Errorf("a second continuation: %q", line)
		case strings.HasPrefix(line, "+ "):
			until = time.Now().Add(d)
		default:
			if err := c.take(line); err != nil {
				return err
			}
		}
	}
}

// learn asks for what is new.
func (c *mailClient) learn() error {
	for n, m := range c.view.all {
		if m.uid == 0 || !m.known {
			_, err := c.command(fmt.Sprintf("FETCH %d:* (UID FLAGS)", n+1))
			return err
		}
	}
	_, err := c.command("NOOP")
	return err
}

// last brings the view up to date, when all is at rest.
func (c *mailClient) last(ctx context.Context) error {
	if c.view == nil {
		if err := c.begin(ctx); err != nil {
			return err
		}
	}
	for {
		if err := c.g.step(ctx, c.name, "last look"); err != nil {
			return err
		}
		rest := c.g.changers == 0
		if _, err := c.command("NOOP"); err != nil {
			return err
		}
		if err := c.learn(); err != nil {
			return err
		}
		if rest {
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (c *mailClient) say(text string) error {
	if _, err := io.WriteString(c.c, text); err != nil {
		return errGone
	}
	return nil
}

func (c *mailClient) command(text string) (string, error) {
	c.tag++
	tag := fmt.Sprint("t", c.tag)
	if err := c.say(tag + " " + text + "\r\n"); err != nil {
		return "", err
	}
	return c.until(tag)
}

func (c *mailClient) pipelined(commands ...string) error {
	text, first := "", c.tag+1
	for _, x := range commands {
		c.tag++
		text += fmt.Sprintf("t%d %s\r\n", c.tag, x)
	}
	if err := c.say(text); err != nil {
		return err
	}
	for i := range commands {
		if _, err := c.until(fmt.Sprint("t", first+i)); err != nil {
			return err
		}
	}
	return nil
}

// until reads to the tagged response, which must be OK.
func (c *mailClient) until(tag string) (string, error) {
	for {
		line, err := c.line(time.Time{})
		if err != nil {
			return "", err
		}
		rest, mine := strings.CutPrefix(line, tag+" ")
		switch {
		case mine && (strings.HasPrefix(rest, "OK") || strings.Contains(rest, "EXPUNGEISSUED")):
			return rest, nil
		case mine || !strings.HasPrefix(line, "* "):
			return "", fmt.Errorf("I5: %w %q", errRefused, line)
		}
		if err := c.take(line); err != nil {
			return "", err
		}
	}
}

var literal = regexp.MustCompile(`\{(\d+)\}\r\n$`)

// line reads a response, with its literals.
func (c *mailClient) line(until time.Time) (string, error) {
	if err := c.c.SetReadDeadline(until); err != nil {
		return "", errGone
	}
	from := 0
	for {
		end := strings.Index(string(c.buf[from:]), "\r\n")
		if end >= 0 {
			end += from + 2
			m := literal.FindSubmatch(c.buf[:end])
			if m == nil {
				line := string(c.buf[:end-2])
				c.buf = c.buf[end:]
				return line, nil
			}
			n, err := strconv.Atoi(string(m[1]))
			if err != nil {
				return "", err
			}
			if len(c.buf) >= end+n {
				from = end + n
				continue
			}
		}
		var p [4096]byte
		n, err := c.c.Read(p[:])
		c.buf = append(c.buf, p[:n]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "", err
		case err != nil:
			return "", errGone
		}
	}
}

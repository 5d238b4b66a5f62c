package access

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// popClient is one POP3 connection (RFC 1939), used by one goroutine.
type popClient struct {
	nc    net.Conn
	r     *bufio.Reader
	lines int // of the last answer of more than one
}

// loginPOP connects and logs in.
func loginPOP(ctx context.Context, addr, user, password string) (*popClient, error) {
	nc, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &popClient{nc: nc, r: bufio.NewReaderSize(nc, 16<<10)}
	err = nc.SetDeadline(time.Now().Add(answerWait))
	if err == nil {
		_, err = c.status("connecting")
	}
	for _, command := range []string{"USER " + user, "PASS " + password} {
		if err == nil {
			_, err = c.do(command)
		}
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

func (c *popClient) close() { c.nc.Close() }

func (c *popClient) status(command string) (string, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("%.40s: %w", command, err)
	}
	if !bytes.HasPrefix(line, []byte("+OK")) {
		return "", fmt.Errorf("%w: %.40s: %.200q", ErrAnswer, command, line)
	}
	return string(bytes.TrimSpace(line[len("+OK"):])), nil
}

// do sends a command and reads its line, which must be +OK.
func (c *popClient) do(command string) (string, error) {
	if err := c.nc.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return "", err
	}
	if _, err := c.nc.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	return c.status(command)
}

// multi sends a command whose answer ends with a line of one dot, and counts its lines.
func (c *popClient) multi(command string) error {
	if _, err := c.do(command); err != nil {
		return err
	}
	c.lines = 0
	for begins := true; ; {
		line, err := c.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("%.40s: %w", command, err)
		}
		if begins && string(line) == ".\r\n" {
			return nil
		}
		if begins = err == nil; begins {
			c.lines++
		}
	}
}

// stat is STAT, which must count so many messages.
func (c *popClient) stat(messages int) error {
	text, err := c.do("STAT")
	if err != nil {
		return err
	}
	count, _, _ := bytes.Cut([]byte(text), []byte(" "))
	n, err := strconv.Atoi(string(count))
	if err != nil {
		return fmt.Errorf("%w: STAT: %q", ErrAnswer, text)
	}
	return want("messages of STAT", n, messages)
}

// listing is LIST or UIDL, with a line for each message.
func (c *popClient) listing(command string, messages int) error {
	if err := c.multi(command); err != nil {
		return err
	}
	return want("lines of "+command, c.lines, messages)
}

// quit takes leave; the server ends the connection.
func (c *popClient) quit() error {
	_, err := c.do("QUIT")
	c.close()
	return err
}

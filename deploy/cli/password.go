package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxPassword bounds a password in bytes, as the login protocols do.
const maxPassword = 1024

// password reads a new password: twice, without echo, from a terminal, else
// one line from standard input.
func (a *app) password(ctx context.Context, user string) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return a.passwordLine()
	}
	first, err := a.prompt(ctx, int(f.Fd()), "Password for "+user+": ")
	if err != nil {
		return "", err
	}
	second, err := a.prompt(ctx, int(f.Fd()), "Once more: ")
	switch {
	case err != nil:
		return "", err
	case first != second:
		return "", &localError{errors.New("the two passwords differ: try again")}
	}
	return first, checkPassword(first)
}

func (a *app) passwordLine() (string, error) {
	line, err := bufio.NewReader(io.LimitReader(a.stdin, maxPassword+3)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", &localError{fmt.Errorf("read the password from standard input: %w", err)}
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	return line, checkPassword(line)
}

func checkPassword(p string) error {
	switch {
	case p == "":
		return &localError{errors.New("the password is empty: type one, or send it as one line on standard input")}
	case len(p) > maxPassword:
		return &localError{fmt.Errorf("the password is longer than %d bytes: choose a shorter one", maxPassword)}
	case strings.ContainsRune(p, 0):
		return &localError{errors.New("the password has a zero byte, which no client can send: choose another")}
	}
	return nil
}

// prompt reads a line without echo. When ctx ends first the echo is put back,
// and the reader, which nothing can interrupt, ends with the process.
func (a *app) prompt(ctx context.Context, fd int, text string) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", &localError{fmt.Errorf("prompt: %w", err)}
	}
	fmt.Fprint(a.stderr, text)
	type answer struct {
		line []byte
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		got <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		err = errors.Join(errors.New("interrupted: nothing was changed"), term.Restore(fd, before))
		fmt.Fprintln(a.stderr)
		return "", &localError{err}
	case r := <-got:
		fmt.Fprintln(a.stderr)
		if r.err != nil {
			return "", &localError{fmt.Errorf("read the password: %w", r.err)}
		}
		return string(r.line), nil
	}
}

package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is a pseudo terminal: keys is what somebody types at it.
func terminal(t *testing.T) (keys, tty *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keys, tty
}

// prompts is a stderr that tells of each prompt.
type prompts chan string

func (p prompts) Write(b []byte) (int, error) {
	if s := string(b); strings.HasSuffix(s, ": ") {
		p <- s
	}
	return len(b), nil
}

// echoOff waits until what is typed is not shown, as a person would look.
func echoOff(t *testing.T, tty *os.File) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if s.Lflag&unix.ECHO == 0 {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatal("the terminal still echoes")
}

func TestThePasswordIsAskedForTwice(t *testing.T) {
	for name, row := range map[string]struct {
		first, second string
		ok            bool
	}{"the same": {"a secret", "a secret", true}, "different": {"a secret", "a sekret", false}, "empty": {"", "", false}} {
		t.Run(name, func(t *testing.T) {
			keys, tty := terminal(t)
			asked := make(prompts)
			a := newApp(tty, tty, asked)
			type answer struct {
				password string
				err      error
			}
			got := make(chan answer, 1)
			go func() {
				p, err := a.password(t.Context(), "alice@example.test")
				got <- answer{p, err}
			}()
			for i, typed := range []string{row.first, row.second} {
				if p := <-asked; i == 0 && p != "Password for alice@example.test: " {
					t.Errorf("asked %q", p)
				}
				echoOff(t, tty)
				if _, err := keys.WriteString(typed + "\n"); err != nil {
					t.Fatal(err)
				}
			}
			r := <-got
			if (r.err == nil) != row.ok || row.ok && r.password != row.first {
				t.Errorf("got %q, %v", r.password, r.err)
			}
			// The echo of the two line ends is all that is seen.
			if err := keys.SetReadDeadline(time.Now()); err == nil {
				seen, _ := bufio.NewReader(keys).ReadString(0)
				if strings.Contains(seen, "secret") {
					t.Errorf("the terminal shows %q", seen)
				}
			}
		})
	}
}

func TestAnInterruptedPromptPutsTheEchoBack(t *testing.T) {
	_, tty := terminal(t)
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(prompts)
	a := newApp(tty, tty, asked)
	ctx, interrupt := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := a.password(ctx, "alice@example.test")
		got <- err
	}()
	<-asked
	echoOff(t, tty)
	interrupt()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Error("the terminal is not as it was")
	}
}

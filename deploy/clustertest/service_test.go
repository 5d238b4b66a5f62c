package clustertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/deploy/cli"
)

// envWaypost makes the test binary the command waypost, with its arguments, so
// that tests run what operators run.
const envWaypost = "WAYPOST_TEST_COMMAND"

func init() {
	if os.Getenv(envWaypost) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
}

// command is the command waypost with arguments.
func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), envWaypost+"=1", "GORACE=halt_on_error=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// waypost runs the command to its end, with stdin, and fails the test if it
// fails.
func waypost(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := command(dir, args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(toolTime, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("waypost %s: %v; it said:\n%s%s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return out.String()
}

// waypostJSON is waypost with --json, read into v.
func waypostJSON(t *testing.T, dir string, v any, args ...string) {
	t.Helper()
	out := waypost(t, dir, "", append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("waypost %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
}

// service is a process as systemd would run it.
type service struct {
	name  string
	cmd   *exec.Cmd
	log   string
	heard net.PacketConn // of sd_notify(3)
	ended chan error
}

// startService starts cmd, and ends it with the test. With notify it is told
// of a socket for sd_notify.
func startService(t *testing.T, name, dir string, cmd *exec.Cmd, notify bool) *service {
	t.Helper()
	s := &service{name: name, cmd: cmd, log: filepath.Join(dir, name+".log"), ended: make(chan error, 1)}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if notify {
		// In a folder of its own: a socket's path must be short.
		short, err := os.MkdirTemp("/tmp", "wpn")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(short) })
		if s.heard, err = net.ListenPacket("unixgram", filepath.Join(short, "n")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.heard.Close() })
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+filepath.Join(short, "n"))
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.stop() // if nobody has
		if t.Failed() {
			b, _ := os.ReadFile(s.log)
			t.Logf("--- the end of %s's log\n%s", name, b[max(0, len(b)-3000):])
		}
	})
	return s
}

// hears waits for a word of sd_notify. A process that ends closes nothing here,
// so that the deadline ends the waiting.
func (s *service) hears(t *testing.T, word string) {
	t.Helper()
	_ = s.heard.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, _, err := s.heard.ReadFrom(b)
		if err != nil {
			t.Fatalf("%s does not say %s: %v", s.name, word, err)
		}
		if slices.Contains(strings.Split(string(b[:n]), "\n"), word) {
			return
		}
	}
}

var errLate = errors.New("it did not end")

// stop ends it as systemd does, and gives how it ended.
func (s *service) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case err := <-s.ended:
		s.ended <- err
		return err
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		err := <-s.ended
		s.ended <- err
		return errLate
	}
}

// loopbackHost gives an address of this machine that nobody else uses: there
// all ports are free.
func loopbackHost(t *testing.T) string {
	t.Helper()
	for range 20 {
		host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		ln, err := net.Listen("tcp", host+":7400")
		if err == nil {
			ln.Close()
			return host
		}
	}
	t.Fatal("no loopback address")
	return ""
}

package quota

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"waypost/internal/vfs"
)

const (
	processEnv   = "WAYPOST_TEST_QUOTA_LOG"
	processes    = 4
	perProcess   = 3 // goroutines
	perGoroutine = 300
)

func TestMain(m *testing.M) {
	if path := os.Getenv(processEnv); path != "" {
		if err := appendMany(path, os.Getpid()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// appendMany is one of several independent processes. It checks the length of
// the file as it goes.
func appendMany(path string, seed int) error {
	errs := make(chan error, perProcess)
	var wg sync.WaitGroup
	for g := range perProcess {
		wg.Go(func() { errs <- appendSome(path, seed, g) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func appendSome(path string, seed, g int) error {
	l, err := Open(vfs.OS, path, Limit{})
	if err != nil {
		return err
	}
	for i := range perGoroutine {
		if err := l.Add(int64(g+1)*1_000_000, 1); err != nil {
			return err
		}
		if (seed+i)%97 == 0 {
			if err := l.SetLimit(Limit{int64(1 + seed%1000), 0}); err != nil {
				return err
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() >= 5120 {
			return fmt.Errorf("the log is %d bytes long: %w", info.Size(), err)
		}
	}
	return l.Close()
}

func TestProcesses(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	var cmds []*exec.Cmd
	for range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), processEnv+"="+path)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	own := appendMany(path, os.Getpid())
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error("process "+strconv.Itoa(i), err)
		}
	}
	if own != nil {
		t.Fatal(own)
	}
	const all = (processes + 1) * perGoroutine
	wantUsage(t, l, Usage{all * (1 + 2 + 3) * 1_000_000, all * perProcess})
}

// TestDyingProcess kills processes at work. What they had acknowledged counts;
// the file can always be read and no lock stays behind.
func TestDyingProcess(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), processEnv+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before, err := l.Usage()
		if err != nil {
			t.Fatal(err)
		}
		for now := before; now.Messages < before.Messages+50; {
			if now, err = l.Usage(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		dead, err := l.Usage()
		if err != nil {
			t.Fatal(err)
		}
		add(t, l, 1, 1)
		wantUsage(t, l, Usage{dead.Bytes + 1, dead.Messages + 1})
	}
}

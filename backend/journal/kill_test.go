package journal

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/vfs"
)

// victimDir makes the test binary a process that appends until it is killed.
const victimDir = "WAYPOST_TEST_JOURNAL"

func runMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func diskOptions(dir string) Options {
	return Options{FS: vfs.OS, Dir: filepath.Join(dir, "journal"), SegmentBytes: 256 << 10, MaxSegments: 8, Interval: 20 * time.Millisecond, Sync: dir}
}

// victim replays what it finds and then says which records are durable. It applies a
// record by making a file of its name.
func victim(dir string) error {
	apply := func(name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) }
	j, err := Open(diskOptions(dir))
	if err != nil {
		return err
	}
	if err := j.Replay(func(r Record) error { return apply(string(r.Data)) }); err != nil {
		return err
	}
	if err := j.Start(); err != nil {
		return err
	}
	var say sync.Mutex
	errs := make(chan error)
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
				ticket := j.Append("ann", 1, nil, []byte(name))
				if err := ticket.Wait(); err != nil {
					errs <- err
					return
				}
				say.Lock()
				fmt.Println("durable", name)
				say.Unlock()
				// Every other record is for the next process to apply.
				if i%2 == 0 {
					if err := apply(name); err != nil {
						errs <- err
						return
					}
					ticket.Applied()
				}
			}
		}()
	}
	return <-errs
}

func TestKilledProcessLosesNothing(t *testing.T) {
	dir := t.TempDir()
	durable := map[string]bool{}
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			name, ok := strings.CutPrefix(lines.Text(), "durable ")
			if !ok {
				t.Error(lines.Text())
			}
			durable[name] = true
			if n == 50+40*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	j := mustOpen(t, diskOptions(dir))
	replayed := map[string]bool{}
	for _, r := range replayAll(t, j) {
		replayed[string(r.Data)] = true
	}
	for name := range durable {
		_, err := os.Stat(filepath.Join(dir, name))
		if err != nil && !replayed[name] {
			t.Errorf("%s is lost", name)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

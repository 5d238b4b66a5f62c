package spool_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/director"
	"waypost/mx/spool"
)

// TestMain runs the victim of TestKilled in place of the tests when asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	os.Exit(m.Run())
}

// victim adds entries and says so, until it is killed. Every other one is
// delivered to its first recipient, and every fourth buried.
func victim(dir string) {
	s, err := spool.Open(dir, spool.Options{MemoryBytes: 1000, MinBackoff: time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	go s.Run(context.Background(), func(_ context.Context, a spool.Attempt) spool.Result {
		var res spool.Result
		u := a.Envelope.Recipients[0].User
		switch {
		case len(a.Envelope.Recipients) < 2:
		case a.Envelope.ID[0]%4 == 0:
			res.Dead = map[director.User]string{u: "gone"}
		case a.Envelope.ID[0]%2 == 0:
			res.Done = []director.User{u}
		}
		return res
	})
	for i := 0; ; i++ {
		id := fmt.Sprintf("%c%d-%d", 'a'+rune(i%8), os.Getpid(), i)
		d := s.Draft()
		body := bodyOf(id)
		io.WriteString(d, body)
		if err := s.Add(d, envelope(id, "u@x.test", "v@x.test"), 0); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("added", id)
	}
}

// bodyOf gives a body that its id determines, of up to 3000 bytes.
func bodyOf(id string) string {
	h := sha256.Sum256([]byte(id))
	return strings.Repeat(hex.EncodeToString(h[:]), int(h[0])%48)
}

// TestKilled kills a process that fills a spool, again and again: what it
// reported is there whole, and nothing is there in part.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	want := map[string]bool{}
	for range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SPOOL_TEST_VICTIM="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		stopAt := 1 + rnd.IntN(60)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			id, ok := strings.CutPrefix(lines.Text(), "added ")
			if !ok {
				t.Fatal(lines.Text())
			}
			want[id] = true
			if n == stopAt {
				cmd.Process.Kill()
			}
		}
		guard.Stop()
		cmd.Wait()
		checkSpool(t, dir, want)
	}
}

func checkSpool(t *testing.T, dir string, want map[string]bool) {
	t.Helper()
	s, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	users := map[string][]director.User{}
	for _, e := range s.List() {
		if message(t, s, e.ID) != bodyOf(e.ID) || e.Size != int64(len(bodyOf(e.ID))) {
			t.Errorf("entry %s is not whole", e.ID)
		}
		for _, r := range e.Recipients {
			users[e.ID] = append(users[e.ID], r.User)
		}
	}
	for id := range want {
		// The second recipient is never delivered; the first may be.
		if !slices.Contains(users[id], "v@x.test") {
			t.Errorf("entry %s is lost: %v", id, users[id])
		}
		if id[0]%4 == 0 && !slices.Contains(users[id], "u@x.test") {
			t.Errorf("entry %s lost its dead: %v", id, users[id])
		}
	}
	if f := files(t, dir); slices.ContainsFunc(f, func(n string) bool { return strings.HasPrefix(n, "tmp") || strings.HasPrefix(n, "bad") }) {
		t.Errorf("left over: %q", f)
	}
}

// TestModel compares the spool with a plain map through any order of changes
// and restarts.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := spool.Open(dir, spool.Options{MemoryBytes: 4, Concurrency: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Close() }()
		queue, dead := map[string][]director.User{}, map[string][]director.User{}
		n := 0
		users := []director.User{"a@x", "b@x", "c@x"}
		pick := func(m map[string][]director.User) string {
			var ids []string
			for id := range m {
				ids = append(ids, id)
			}
			if len(ids) == 0 {
				rt.Skip("none")
			}
			slices.Sort(ids)
			return rapid.SampledFrom(ids).Draw(rt, "id")
		}
		without := func(l []director.User, u director.User) []director.User {
			return slices.DeleteFunc(slices.Clone(l), func(x director.User) bool { return x == u })
		}
		set := func(m map[string][]director.User, id string, l []director.User) {
			slices.Sort(l)
			if m[id] = l; len(l) == 0 {
				delete(m, id)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				n++
				id := fmt.Sprint("e", n)
				to := rapid.SliceOfNDistinct(rapid.SampledFrom(users), 1, 3, rapid.ID[director.User]).Draw(rt, "users")
				add(t, s, envelope(id, to...), strings.Repeat("x", rapid.IntRange(0, 9).Draw(rt, "size")), time.Hour)
				set(queue, id, slices.Clone(to))
			},
			"attempt": func(rt *rapid.T) {
				id := pick(queue)
				u := rapid.SampledFrom(queue[id]).Draw(rt, "user")
				bury := rapid.Bool().Draw(rt, "bury")
				ctx, cancel := context.WithCancel(context.Background())
				if err := s.Retry(id); err != nil {
					if dead[id] == nil {
						rt.Fatal(err)
					}
				}
				if dead[id] != nil { // Retry revived it
					set(queue, id, slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(queue[id]), dead[id]...)))))
					delete(dead, id)
				}
				s.Run(ctx, func(_ context.Context, a spool.Attempt) spool.Result {
					if a.Envelope.ID != id {
						return spool.Result{Soon: time.Hour}
					}
					cancel()
					if bury {
						return spool.Result{Dead: map[director.User]string{u: "gone"}}
					}
					return spool.Result{Done: []director.User{u}}
				})
				set(queue, id, without(queue[id], u))
				if bury {
					set(dead, id, append(dead[id], u))
				}
			},
			"drop": func(rt *rapid.T) {
				id := pick(queue)
				if err := s.Drop(id); err != nil {
					rt.Fatal(err)
				}
				delete(queue, id)
				delete(dead, id)
			},
			"reopen": func(rt *rapid.T) {
				s.Close()
				if s, err = spool.Open(dir, spool.Options{MemoryBytes: 4, Concurrency: 1, MinBackoff: time.Hour}); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				gotQ, gotD := map[string][]director.User{}, map[string][]director.User{}
				for _, e := range s.List() {
					m := gotQ
					if e.State == spool.Dead {
						m = gotD
					}
					for _, r := range e.Recipients {
						m[e.ID] = append(m[e.ID], r.User)
					}
					slices.Sort(m[e.ID])
					if got := len(message(t, s, e.ID)); int64(got) != e.Size {
						rt.Fatalf("%s has %d bytes, not %d", e.ID, got, e.Size)
					}
				}
				if fmt.Sprint(gotQ) != fmt.Sprint(queue) || fmt.Sprint(gotD) != fmt.Sprint(dead) {
					rt.Fatalf("queue %v, want %v; dead %v, want %v", gotQ, queue, gotD, dead)
				}
			},
		})
	})
}

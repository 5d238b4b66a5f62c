package scripts

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

const root = "/users/ann"

var longName = strings.Repeat("🦊", 128)

// steps are a life with every kind of change, long names and replacements.
var steps = []struct {
	name string
	do   func(*Store) error
}{
	{"put a", func(s *Store) error { return s.Put("a", []byte("one")) }},
	{"activate a", func(s *Store) error { return s.SetActive("a") }},
	{"replace a", func(s *Store) error { return s.Put("a", []byte(strings.Repeat("two", 1000))) }},
	{"rename the active one", func(s *Store) error { return s.Rename("a", "b") }},
	{"rename it long", func(s *Store) error { return s.Rename("b", longName) }},
	{"put b", func(s *Store) error { return s.Put("b", []byte("three")) }},
	{"activate b", func(s *Store) error { return s.SetActive("b") }},
	{"delete the long one", func(s *Store) error { return s.Delete(longName) }},
	{"put a long one", func(s *Store) error { return s.Put(longName, []byte("four")) }},
	{"rename it short", func(s *Store) error { return s.Rename(longName, "c") }},
	{"deactivate", func(s *Store) error { return s.SetActive("") }},
	{"delete b", func(s *Store) error { return s.Delete("b") }},
}

func fresh(t rapid.TB, seed uint64) *crashfs.FS {
	t.Helper()
	f := crashfs.New(seed)
	must(t, vfs.MkdirAll(f, root, 0o700))
	return f
}

// states are what there is before the first step, and after each.
func states(t rapid.TB) []string {
	s := New(fresh(t, 1), root, Limits{})
	all := []string{show(t, s)}
	for _, step := range steps {
		must(t, step.do(s))
		all = append(all, show(t, s))
	}
	return all
}

// trouble runs the steps, with something happening before the operation number at
// of those that count, until a step fails. It gives how many succeeded, and whether
// it came to at at all.
func trouble(s *Store, f *crashfs.FS, at int, counts func(crashfs.Op) bool, happen func() error) (done int, came bool) {
	n := 0
	f.Fail(func(op crashfs.Op) error {
		if !counts(op) {
			return nil
		}
		if n++; n != at {
			return nil
		}
		came = true
		return happen()
	})
	defer f.Fail(nil)
	for _, step := range steps {
		if err := step.do(s); err != nil {
			return done, came
		}
		done++
	}
	return done, came
}

// TestPowerCut cuts the power before each operation that changes something: what was promised is there,
// the step under way is done or not, and the rest of the life goes on from there.
func TestPowerCut(t *testing.T) {
	want := states(t)
	for cut := 1; ; cut++ {
		came := false
		for luck := range uint64(6) {
			f := fresh(t, uint64(cut))
			var after *crashfs.FS
			var done int
			done, came = trouble(New(f, root, Limits{}), f, cut, crashfs.Op.Changes, func() error {
				after = f.Crash(rand.New(rand.NewPCG(uint64(cut), luck)))
				return nil
			})
			if !came {
				break
			}
			s := New(after, root, Limits{})
			got := show(t, s)
			next := min(done+1, len(steps))
			switch got {
			case want[next]:
				done = next
			case want[done]:
			default:
				t.Fatalf("cut at %d in %q: have %.200q, want %.200q or %.200q", cut, steps[done].name, got, want[done], want[next])
			}
			for _, step := range steps[done:] {
				must(t, step.do(s))
			}
			if got := show(t, s); got != want[len(steps)] {
				t.Fatalf("cut at %d: have %.200q in the end", cut, got)
			}
		}
		if !came {
			return
		}
	}
}

// TestFaultAtEachOperation has each operation fail once. The step that failed may
// be done or not, and trying it again works, or finds that it was done. The next
// change that is acknowledged makes it durable.
func TestFaultAtEachOperation(t *testing.T) {
	want := states(t)
	for at := 1; ; at++ {
		f := fresh(t, uint64(at))
		s := New(f, root, Limits{})
		done, came := trouble(s, f, at, func(crashfs.Op) bool { return true }, func() error { return syscall.EIO })
		if !came {
			return
		}
		for done < len(steps) {
			got := show(t, s)
			if got != want[done] && got != want[done+1] {
				t.Fatalf("fault at %d in %q: have %.200q", at, steps[done].name, got)
			}
			err := steps[done].do(s)
			isDone := errors.Is(err, ErrNonexistent) && got == want[done+1]
			if err != nil && !isDone {
				t.Fatalf("fault at %d: %q again: %v", at, steps[done].name, err)
			}
			done++
		}
		must(t, s.SetActive(""))
		after := New(f.Crash(rand.New(rand.NewPCG(uint64(at), 0))), root, Limits{})
		if got := show(t, after); got != want[len(steps)] {
			t.Fatalf("fault at %d: have %.200q in the end", at, got)
		}
	}
}

// TestModel compares with maps, with crashes in between.
func TestModel(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", ".c/", longName, longName[len("🦊"):] + "x"})
	rapid.Check(t, func(t *rapid.T) {
		f := fresh(t, 1)
		s := New(f, root, Limits{Scripts: 3, TotalBytes: 100})
		model, active := map[string]string{}, ""
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name, src := names.Draw(t, "name"), rapid.StringN(0, 60, 60).Draw(t, "source")
				total := len(src)
				for other, text := range model {
					if other != name {
						total += len(text)
					}
				}
				_, there := model[name]
				err := s.Put(name, []byte(src))
				switch {
				case !there && len(model) >= 3:
					refuses(t, "put", err, ErrTooMany)
				case total > 100:
					refuses(t, "put", err, ErrQuota)
				default:
					must(t, err)
					model[name] = src
				}
			},
			"delete": func(t *rapid.T) {
				name := names.Draw(t, "name")
				_, there := model[name]
				err := s.Delete(name)
				switch {
				case !there:
					refuses(t, "delete", err, ErrNonexistent)
				case name == active:
					refuses(t, "delete", err, ErrActive)
				default:
					must(t, err)
					delete(model, name)
				}
			},
			"rename": func(t *rapid.T) {
				from, to := names.Draw(t, "from"), names.Draw(t, "to")
				src, there := model[from]
				_, taken := model[to]
				err := s.Rename(from, to)
				switch {
				case !there:
					refuses(t, "rename", err, ErrNonexistent)
				case taken:
					refuses(t, "rename", err, ErrExists)
				default:
					must(t, err)
					delete(model, from)
					model[to] = src
					if active == from {
						active = to
					}
				}
			},
			"activate": func(t *rapid.T) {
				name := names.Draw(t, "name")
				if _, there := model[name]; !there {
					refuses(t, "activate", s.SetActive(name), ErrNonexistent)
					return
				}
				must(t, s.SetActive(name))
				active = name
			},
			"deactivate": func(t *rapid.T) {
				must(t, s.SetActive(""))
				active = ""
			},
			"crash": func(t *rapid.T) {
				f = f.Crash(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "luck"), 0)))
				s = New(f, root, Limits{Scripts: 3, TotalBytes: 100})
			},
			"": func(t *rapid.T) {
				list, err := s.List()
				must(t, err)
				if len(list) != len(model) {
					t.Fatalf("%d scripts, want %d", len(list), len(model))
				}
				for _, script := range list {
					src, err := s.Get(script.Name)
					must(t, err)
					if text, there := model[script.Name]; !there || text != string(src) || script.Active != (script.Name == active) {
						t.Fatalf("%+v holds %q, want %q", script, src, text)
					}
				}
				a, err := s.Active()
				must(t, err)
				if a.Name != active || string(a.Source) != model[active] {
					t.Fatalf("active is %q, want %q", a.Name, active)
				}
			},
		})
	})
}

func BenchmarkActive(b *testing.B) {
	s := New(vfs.OS, b.TempDir(), Limits{})
	must(b, s.Put("a", fmt.Append(nil, strings.Repeat("keep;\n", 500))), s.SetActive("a"))
	for b.Loop() {
		if _, err := s.Active(); err != nil {
			b.Fatal(err)
		}
	}
}

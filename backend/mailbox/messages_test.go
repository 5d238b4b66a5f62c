package mailbox

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// numbered gives n messages with the UIDs 1, 2, 3...
func numbered(n int) []Message {
	all := make([]Message, n)
	for i := range all {
		all[i] = Message{UID: UID(i + 1), GUID: fmt.Sprint(i + 1), Size: int64(i)}
	}
	return all
}

// slice is a Source.
type slice []Message

func (s slice) Len() int                        { return len(s) }
func (s slice) UID(i int) UID                   { return s[i].UID }
func (s slice) Messages(from, to int) []Message { return slices.Clone(s[from:to]) }

// counting counts how many messages a Source has made.
type counting struct {
	slice
	made *atomic.Int64
}

func (c counting) Messages(from, to int) []Message {
	c.made.Add(int64(to - from))
	return c.slice.Messages(from, to)
}

// TestLaterMessages: what nobody looks at is not made, and nothing twice, whoever looks at once.
func TestLaterMessages(t *testing.T) {
	src := counting{numbered(10 * chunkSize), new(atomic.Int64)}
	m := LaterMessages(src)
	if r := m.Ranges(); m.Len() != len(src.slice) || len(r) != 1 || src.made.Load() != 0 {
		t.Fatalf("%d messages, %v, %d made", m.Len(), r, src.made.Load())
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i, got := range m.From(chunkSize) {
				if !reflect.DeepEqual(*got, src.slice[i]) {
					t.Errorf("message %d is %+v", i, got)
				}
			}
		})
	}
	all.Wait()
	if made := src.made.Load(); made != 9*chunkSize {
		t.Errorf("%d made", made)
	}
}

func byUID(m Message, uid UID) int { return cmp.Compare(m.UID, uid) }

// same checks every way of reading m against the slice.
func checkSame(t *rapid.T, m Messages, want []Message) {
	t.Helper()
	if m.Len() != len(want) {
		t.Fatalf("Len %d, want %d", m.Len(), len(want))
	}
	n := 0
	for i, got := range m.All() {
		if i != n || !reflect.DeepEqual(*got, want[i]) || m.At(i) != got || m.Get(got.UID) != got {
			t.Fatalf("message %d is %+v, want %+v", i, *got, want[i])
		}
		n++
	}
	if n != len(want) {
		t.Fatalf("All gives %d, want %d", n, len(want))
	}
	last := UID(0)
	if n > 0 {
		last = want[n-1].UID
	}
	uid := UID(rapid.Uint32Range(0, uint32(last)+2).Draw(t, "uid"))
	at, ok := slices.BinarySearchFunc(want, uid, byUID)
	if i, found := m.Find(uid); i != at || found != ok || (m.Get(uid) != nil) != ok {
		t.Fatalf("Find(%d) is %d %v, want %d %v", uid, i, found, at, ok)
	}
	from := rapid.IntRange(0, n+1).Draw(t, "from")
	visited := from
	for i := range m.From(from) {
		if i != visited {
			t.Fatalf("From(%d) visits %d instead of %d", from, i, visited)
		}
		visited++
	}
	if visited != max(n, from) {
		t.Fatalf("From(%d) ends at %d of %d", from, visited, n)
	}
	var uids []UID
	for i, r := range m.Ranges() {
		if i > 0 && r.First <= uids[len(uids)-1]+1 {
			t.Fatalf("range %d begins at %d, behind %d", i, r.First, uids[len(uids)-1])
		}
		for uid := r.First; uid <= r.Last; uid++ {
			uids = append(uids, uid)
		}
	}
	if !slices.EqualFunc(uids, want, func(uid UID, m Message) bool { return uid == m.UID }) {
		t.Fatalf("Ranges gives %d UIDs, want %d", len(uids), n)
	}
}

// checkShape checks that chunks are neither empty nor too large, and not many
// small ones side by side.
func checkShape(t *rapid.T, m Messages) {
	t.Helper()
	start := 0
	for i, s := range m.table {
		if s.n == 0 || s.n > chunkSize || int(s.n) != len(s.c.messages()) || s.c.first() != s.c.all[0].UID || s.start != start || s.last != s.c.all[s.n-1].UID {
			t.Fatalf("line %d is %+v with %d messages, should start at %d", i, s, len(s.c.all), start)
		}
		if i > 0 && s.n+m.table[i-1].n <= chunkSize/2 {
			t.Fatalf("chunks %d and %d have %d and %d messages", i-1, i, m.table[i-1].n, s.n)
		}
		start += int(s.n)
	}
}

// checkDiff compares Diff with the same by plain slices.
func checkDiff(t *rapid.T, old, now Messages, was, is []Message) {
	t.Helper()
	var want []Change
	i, j := 0, 0
	for i < len(was) || j < len(is) {
		switch {
		case j == len(is) || i < len(was) && was[i].UID < is[j].UID:
			want = append(want, Change{Was: &was[i], WasAt: i, IsAt: j})
			i++
		case i == len(was) || is[j].UID < was[i].UID:
			want = append(want, Change{Is: &is[j], WasAt: i, IsAt: j})
			j++
		default:
			if !reflect.DeepEqual(was[i], is[j]) {
				want = append(want, Change{&was[i], &is[j], i, j})
			}
			i++
			j++
		}
	}
	got := slices.Collect(Diff(old, now))
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%d changes, want %d", len(got), len(want))
	}
}

func TestMessagesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			m    Messages
			want []Message
		}
		model := numbered(rapid.SampledFrom([]int{0, 1, 255, 256, 257, 600, 1500}).Draw(t, "n"))
		next := UID(len(model) + 1)
		m := NewMessages(slices.Clone(model))
		if rapid.Bool().Draw(t, "later") {
			m = LaterMessages(slice(slices.Clone(model)))
		}
		versions := []version{{m, slices.Clone(model)}}
		e := m.Edit()
		modSeq := uint64(0)
		some := func() UID { return UID(rapid.Uint32Range(0, uint32(next)+1).Draw(t, "some")) }
		check := func() {
			m = e.Done()
			checkSame(t, m, model)
			checkShape(t, m)
			versions = append(versions, version{m, slices.Clone(model)})
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 2, 300}).Draw(t, "count") {
					next += UID(rapid.IntRange(0, 1).Draw(t, "gap"))
					fresh := Message{UID: next}
					next++
					e.Append(fresh)
					model = append(model, fresh)
				}
			},
			"set": func(t *rapid.T) {
				modSeq++
				changed := Message{UID: some(), ModSeq: modSeq}
				i, ok := slices.BinarySearchFunc(model, changed.UID, byUID)
				if ok {
					model[i] = changed
				}
				if e.Set(changed) != ok {
					t.Fatalf("Set: %v", !ok)
				}
			},
			"insert": func(t *rapid.T) {
				from := some()
				for uid := from; uid < from+UID(rapid.SampledFrom([]int{1, 3, 300}).Draw(t, "count")); uid++ {
					i, ok := slices.BinarySearchFunc(model, uid, byUID)
					fresh := Message{UID: uid, Size: 1}
					if !ok {
						model = slices.Insert(model, i, fresh)
					}
					if e.Insert(fresh) == ok {
						t.Fatalf("Insert: %v", ok)
					}
					next = max(next, uid+1)
				}
			},
			"delete": func(t *rapid.T) {
				from := some()
				for uid := from; uid < from+UID(rapid.SampledFrom([]int{1, 3, 100, 400}).Draw(t, "count")); uid++ {
					i, ok := slices.BinarySearchFunc(model, uid, byUID)
					if ok {
						model = slices.Delete(model, i, i+1)
					}
					if e.Delete(uid) != ok {
						t.Fatalf("Delete: %v", !ok)
					}
				}
			},
			"thin": func(t *rapid.T) {
				// What a client leaves that expunges most of a folder.
				keep := UID(rapid.IntRange(2, 50).Draw(t, "keep"))
				model = slices.DeleteFunc(model, func(m Message) bool { return m.UID%keep != 0 && e.Delete(m.UID) })
			},
			"get": func(t *rapid.T) {
				uid := some()
				i, ok := slices.BinarySearchFunc(model, uid, byUID)
				got := e.Get(uid)
				if (got != nil) != ok || ok && !reflect.DeepEqual(*got, model[i]) {
					t.Fatalf("Get(%d): %+v, want %v", uid, got, ok)
				}
			},
			"done":       func(*rapid.T) { check() },
			"done, anew": func(*rapid.T) { check(); e = m.Edit() },
		})
		check()
		for _, v := range versions {
			checkSame(t, v.m, v.want) // whatever came after
		}
		a := versions[rapid.IntRange(0, len(versions)-1).Draw(t, "a")]
		b := versions[rapid.IntRange(0, len(versions)-1).Draw(t, "b")]
		checkDiff(t, a.m, b.m, a.want, b.want)
	})
}

func TestEditLeavesAlone(t *testing.T) {
	m := NewMessages(numbered(1000))
	if e := m.Edit(); e.Set(Message{UID: 2000}) || e.Delete(1001) || !sameTable(e.Done(), m) {
		t.Error("an edit of nothing changed something")
	}
	e := m.Edit()
	e.Delete(600)
	now := e.Done()
	shared := 0
	for i := range now.table {
		if now.table[i].c == m.table[i].c {
			shared++
		}
	}
	if shared != 3 || now.Len() != 999 || m.Len() != 1000 {
		t.Errorf("%d of 4 chunks shared", shared)
	}
}

func sameTable(a, b Messages) bool { return &a.table[0] == &b.table[0] }

func TestAppendOutOfOrder(t *testing.T) {
	e := NewMessages(numbered(3)).Edit()
	e.Delete(3)
	e.Append(Message{UID: 3}) // nothing is above it any more
	defer func() {
		if recover() == nil {
			t.Error("taken")
		}
	}()
	e.Append(Message{UID: 3})
}

func TestDiffStops(t *testing.T) {
	for range Diff(Messages{}, NewMessages(numbered(3))) {
		break
	}
}

func BenchmarkEdit(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		m := NewMessages(numbered(n))
		b.Run(fmt.Sprintf("Set/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				e := m.Edit()
				e.Set(Message{UID: UID(i%n + 1)})
				e.Done()
			}
		})
		b.Run(fmt.Sprintf("Append/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				e := m.Edit()
				e.Append(Message{UID: UID(n + 1)})
				e.Done()
			}
		})
		e := m.Edit()
		e.Set(Message{UID: UID(n / 2)})
		now := e.Done()
		b.Run(fmt.Sprintf("Diff/%d", n), func(b *testing.B) {
			for range b.N {
				for range Diff(m, now) {
				}
			}
		})
	}
}

package index

import (
	"bytes"
	"fmt"
	"testing"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

const benchMessages = 100_000

// filled gives a folder with an index of that many messages.
func filled(b *testing.B, contents bool) (folder string, bases []string) {
	b.Helper()
	folder = b.TempDir()
	var metas []*mailbox.Meta
	for _, m := range corpus(b, 2000) {
		metas = append(metas, read(b, m.Body))
	}
	x := Open(vfs.OS, folder, "id")
	for i := range benchMessages {
		bases = append(bases, fmt.Sprintf("17%08d.M%dP1.host,S=100,W=120", i, i*7919%1000000))
		if err := x.Put(bases[i], metas[i%len(metas)]); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%+v", x.Stats())
	leave(b, x, contents)
	return folder, bases
}

// leave closes the index, with a table of contents or without.
func leave(b *testing.B, x *Index, contents bool) {
	x.mu.Lock()
	x.begun = contents
	x.mu.Unlock()
	closed(b, x)
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range []bool{true, false} {
		b.Run(fmt.Sprintf("contents=%v", c), func(b *testing.B) {
			folder, bases := filled(b, c)
			for b.Loop() {
				x := Open(vfs.OS, folder, "id")
				if _, ok := x.Get(bases[0]); !ok {
					b.Fatal("miss")
				}
				leave(b, x, c)
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	folder, bases := filled(b, true)
	for name, step := range map[string]int{"forwards": 1, "backwards": benchMessages - 1, "scattered": 7919} {
		b.Run(name, func(b *testing.B) {
			inTurn(b, folder, bases, step, func(x *Index, base string) bool { _, ok := x.Get(base); return ok })
		})
	}
}

func BenchmarkWire(b *testing.B) {
	folder, bases := filled(b, true)
	var room Room
	inTurn(b, folder, bases, 1, func(x *Index, base string) bool { _, ok := x.Wire(base, &room); return ok })
}

func BenchmarkSummary(b *testing.B) {
	folder, bases := filled(b, true)
	var room Room
	inTurn(b, folder, bases, 1, func(x *Index, base string) bool { _, ok := x.Summary(base, &room); return ok })
}

// inTurn asks for every step-th message, round and round.
func inTurn(b *testing.B, folder string, bases []string, step int, ask func(x *Index, base string) bool) {
	x := Open(vfs.OS, folder, "id")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if !ask(x, bases[i]) {
			b.Fatal("miss")
		}
		i = (i + step) % benchMessages
	}
	closed(b, x)
}

func BenchmarkPut(b *testing.B) {
	m := read(b, corpus(b, 1)[0].Body)
	x := Open(vfs.OS, b.TempDir(), "id")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := x.Put(base(i), m); err != nil {
			b.Fatal(err)
		}
		i++
	}
	closed(b, x)
}

func BenchmarkCompact(b *testing.B) {
	folder, _ := filled(b, true)
	x := Open(vfs.OS, folder, "id")
	for b.Loop() {
		if err := x.Compact(func(string) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
	closed(b, x)
}

func BenchmarkRead(b *testing.B) {
	msgs := corpus(b, 2000)
	b.ReportAllocs()
	var scratch Scratch
	i, size := 0, 0
	for b.Loop() {
		size += len(msgs[i].Body)
		if _, err := scratch.Read(bytes.NewReader(msgs[i].Body), arrived); err != nil {
			b.Fatal(err)
		}
		i = (i + 1) % len(msgs)
	}
	b.SetBytes(int64(size / b.N))
}

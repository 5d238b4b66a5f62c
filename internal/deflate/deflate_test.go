package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// inflate feeds in, cut at every nth byte.
func inflate(in []byte, n int) ([]byte, error) {
	var out []byte
	z := new(Inflater)
	for len(in) > 0 {
		k := min(n, len(in))
		err := z.Write(in[:k], func(p []byte) error { out = append(out, p...); return nil })
		if err != nil {
			return out, err
		}
		in = in[k:]
	}
	return out, nil
}

// samples are texts with short and long matches, and none.
func samples() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	words := strings.Fields("FETCH FLAGS (\\Seen) UID BODY.PEEK[HEADER] 17 4711 RFC822.SIZE from to the\r\n of and in \x80\xff")
	var text []byte
	for len(text) < 200_000 {
		text = append(append(text, words[r.IntN(len(words))]...), ' ')
	}
	return [][]byte{nil, []byte("x"), []byte("a1 NOOP\r\n"), bytes.Repeat([]byte{0}, 300_000), noise, text, append(noise[:40_000:40_000], text...)}
}

func TestInflateWhatFlateWrites(t *testing.T) {
	for i, want := range samples() {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			var b bytes.Buffer
			w, err := flate.NewWriter(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, 7, 700, 5000, 1 << 20} {
				got, err := inflate(b.Bytes(), n)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("sample %d, level %d, cut at %d: %d bytes of %d, %v", i, level, n, len(got), len(want), err)
				}
			}
			if _, err := inflate(append(b.Bytes(), 0), 1<<20); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bytes behind the end: %v", err)
			}
		}
	}
}

// What was flushed is given out at once, also by a flush that adds no empty stored
// block. These are outputs of zlib with Z_PARTIAL_FLUSH.
func TestPartialFlush(t *testing.T) {
	z := new(Inflater)
	for _, flush := range [][2]string{
		{"4a34540876f571750e51f0f473f28fe0e50208", "a1 SELECT INBOX\r\n"},
		{"a0442385504f170537d710670f05432b2d050d371f47f7604d5e2e8000", "a2 UID FETCH 1:* (FLAGS)\r\n"},
		{"4a34c6250310", "a3 UID FETCH 1:* (FLAGS)\r\n"},
	} {
		in, err := hex.DecodeString(flush[0])
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		if err := z.Write(in, func(p []byte) error { got = append(got, p...); return nil }); err != nil || string(got) != flush[1] {
			t.Fatalf("%q, %v; want %q", got, err, flush[1])
		}
	}
}

// What a Deflater makes of pieces is one stream for anybody, each piece complete.
func TestDeflater(t *testing.T) {
	var d Deflater
	rapid.Check(t, func(t *rapid.T) {
		all := samples()
		var stream, want []byte
		z := new(Inflater)
		for range rapid.IntRange(1, 5).Draw(t, "pieces") {
			src := all[rapid.IntRange(0, len(all)-1).Draw(t, "sample")]
			src = src[:rapid.IntRange(0, min(PieceBytes, len(src))).Draw(t, "bytes")]
			piece := d.Append(nil, src)
			if len(piece) > len(src)+64 {
				t.Fatalf("%d bytes became %d", len(src), len(piece))
			}
			var got []byte
			if err := z.Write(piece, func(p []byte) error { got = append(got, p...); return nil }); err != nil || !bytes.Equal(got, src) {
				t.Fatalf("%d bytes of %d: %v", len(got), len(src), err)
			}
			stream, want = append(stream, piece...), append(want, src...)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(flate.NewReader(bytes.NewReader(stream)), got); err != nil && len(want) > 0 || !bytes.Equal(got, want) {
			t.Fatalf("the standard library reads otherwise: %v", err)
		}
	})
}

func TestEmitFails(t *testing.T) {
	stop := errors.New("stop")
	z := new(Inflater)
	in := new(Deflater).Append(nil, bytes.Repeat([]byte{'x'}, PieceBytes))
	if err := z.Write(in, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

func TestCorrupt(t *testing.T) {
	for name, in := range map[string]string{
		"block type 3":               "07",
		"lengths that do not match":  "0001000100",
		"distance before the begin":  "63000200", // fixed: literal, then a match of distance > 1
		"286 and more literal codes": "f5ffffffffffff",
		"a plain command":            hex.EncodeToString([]byte("a1 SELECT INBOX\r\na2 NOOP\r\n")),
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		_, reads := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
		var corrupt flate.CorruptInputError
		if _, err := inflate(b, 3); errors.Is(err, ErrCorrupt) != errors.As(reads, &corrupt) {
			t.Errorf("%s: %v, the standard library %v", name, err, reads)
		}
	}
}

// FuzzInflate: no input makes it panic, and it reads as the standard library does.
func FuzzInflate(f *testing.F) {
	for _, s := range samples() {
		f.Add(new(Deflater).Append(nil, s[:min(len(s), 300)]), 5)
	}
	f.Add([]byte("a1 SELECT INBOX\r\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		if cut < 1 || len(in) > 1<<16 {
			return
		}
		r := flate.NewReader(bytes.NewReader(in))
		want, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if len(want) == 1<<20 {
			return
		}
		got, mine := inflate(in, cut)
		var corrupt flate.CorruptInputError
		switch {
		case err == nil && !bytes.Equal(got, want):
			t.Fatalf("%d bytes, the standard library %d", len(got), len(want))
		case err != nil && !errors.As(err, &corrupt) && mine != nil:
			t.Fatalf("%v, the standard library %v", mine, err) // which wants more
		case !bytes.HasPrefix(want, got) && !bytes.HasPrefix(got, want):
			t.Fatal("read otherwise than by the standard library")
		}
	})
}

func BenchmarkInflate(b *testing.B) {
	src := samples()[5][:PieceBytes]
	in := new(Deflater).Append(nil, src)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	z := new(Inflater)
	for b.Loop() {
		if err := z.Write(in, func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDeflate(b *testing.B) {
	src := samples()[5][:PieceBytes]
	var d Deflater
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	out := make([]byte, 0, PieceBytes+64)
	for b.Loop() {
		out = d.Append(out[:0], src)
	}
}

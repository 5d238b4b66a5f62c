package control

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func stream(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for i := 0; i+1 < len(files); i += 2 {
		if err := WriteHead(&b, FileHead{Path: TreePath(files[i]), Size: int64(len(files[i+1])), MTime: 7}); err != nil {
			t.Fatal(err)
		}
		b.WriteString(files[i+1])
	}
	if err := WriteHead(&b, FileHead{End: true}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFileReader(t *testing.T) {
	data := stream(t, "Maildir/cur/1:2,", "one\n{\"end\":true}\n", "Maildir/", "", "odd \xff", "", "last", "two")
	var got []string
	f := NewFileReader(bytes.NewReader(data))
	for n := 0; ; n++ {
		h, r, err := f.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 3 {
			continue // what is not read is passed over
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(h.Path)+"="+string(b))
	}
	if want := "Maildir/cur/1:2,=one\n{\"end\":true}\n|Maildir/=|odd \xff="; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
	for n := range len(data) {
		f := NewFileReader(bytes.NewReader(data[:n]))
		var err error
		for err == nil {
			_, _, err = f.Next()
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut off after %d bytes of %d it is taken for whole", n, len(data))
		}
	}
	var refused bytes.Buffer
	if err := WriteHead(&refused, FileHead{Error: &Error{CodeFence, "gone"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewFileReader(&refused).Next(); !IsCode(err, CodeFence) {
		t.Errorf("a refusal: %v", err)
	}
}

func FuzzFileReader(f *testing.F) {
	f.Add(stream(f, "a", "x", "b/", ""))
	f.Add([]byte(`{"path":"a","size":-1}` + "\n"))
	f.Add([]byte(`{"path":"a/","size":1}` + "\nx"))
	f.Add([]byte(strings.Repeat("x", maxHead+1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewFileReader(bytes.NewReader(data))
		for n := 0; ; n++ {
			h, body, err := r.Next()
			if err != nil {
				return
			}
			if h.Path == "" || h.Size < 0 || n > len(data) {
				t.Fatalf("%+v", h)
			}
			if n, err := io.Copy(io.Discard, body); err != nil || n > h.Size {
				t.Fatalf("%d bytes of %d: %v", n, h.Size, err)
			}
		}
	})
}

package index

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// TestCorpusRoundTrip: of every real message, what was read is what comes back,
// and header lists are answered as from the message itself.
func TestCorpusRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var bytesKept, left int
	msgs := corpus(t, 2000)
	for _, msg := range msgs {
		want := read(t, msg.Body)
		payload, err := new(encoder).encode(nil, want)
		if err != nil {
			left++
			t.Logf("%s: %v", msg.Name, err)
			continue
		}
		bytesKept += len(payload)
		got, err := decodeMeta(payload)
		if err != nil {
			t.Fatalf("%s: %v", msg.Name, err)
		}
		same(t, msg.Name, got, want)
		checkHeader(t, rng, msg.Body, got)
	}
	if left > len(msgs)/100 {
		t.Errorf("%d of %d were too large", left, len(msgs))
	}
	t.Logf("%d messages, %d bytes each, %d left out", len(msgs), bytesKept/len(msgs), left)
}

// checkHeader asks for some fields, from m and from the message.
func checkHeader(t *testing.T, rng *rand.Rand, msg []byte, m *mailbox.Meta) {
	t.Helper()
	names := []string{"SUBJECT", "references"}
	for range rng.IntN(8) {
		names = append(names, keptNames[rng.IntN(len(keptNames))])
	}
	got, ok := HeaderFields(m, names)
	if !ok {
		cut := false
		for _, f := range m.Fields {
			cut = cut || f.Cut
		}
		if !cut {
			t.Fatalf("%q not known", names)
		}
		return
	}
	var want bytes.Buffer
	if err := mime.CopyFields(&want, bytes.NewReader(msg), names, false); err != nil {
		t.Fatal(err)
	}
	if got != want.String() {
		t.Fatalf("%q: got %q, want %q", names, got, want.String())
	}
}

func TestHeaderKnown(t *testing.T) {
	long := strings.Repeat("<id@example.test>\r\n ", 1000)
	m := read(t, []byte("SUBJECT :  a\r\n\tb \r\nReferences: "+long+"x\r\nreferences: y\r\nX-Odd: 1\r\nTo: t\r\nto: u\r\n\r\n"))
	for _, c := range []struct {
		names string
		want  string
		known bool
	}{
		{"subject", "SUBJECT :  a\r\n\tb \r\n\r\n", true},
		{"To cc", "To: t\r\nto: u\r\n\r\n", true},
		{"cc", "\r\n", true},
		{"references", "", false},
		{"to x-odd", "", false},
		{"received", "", false},
	} {
		if got, known := HeaderFields(m, strings.Fields(c.names)); got != c.want || known != c.known {
			t.Errorf("%s: %q %v", c.names, got, known)
		}
	}
	if v, ok := valuesOf(m, "Subject"); !ok || len(v) != 1 || v[0] != "a\tb" {
		t.Errorf("subject %q %v", v, ok)
	}
	if v, ok := valuesOf(m, "To"); !ok || len(v) != 2 || v[1] != "u" {
		t.Errorf("to %q %v", v, ok)
	}
	if v, ok := valuesOf(m, "Cc"); !ok || v != nil {
		t.Errorf("cc %q %v", v, ok)
	}
	if _, ok := valuesOf(m, "References"); ok {
		t.Error("references known")
	}
	many := read(t, []byte(strings.Repeat("To: a\r\n", 500)+"Subject: s\r\n\r\n"))
	if _, ok := valuesOf(many, "to"); ok || len(many.Fields) > maxFields+2 {
		t.Errorf("%d fields", len(many.Fields))
	}
	if _, ok := valuesOf(many, "cc"); !ok {
		t.Error("absence not known")
	}
}

// TestFormatPinned fails when what records are made of changes: then formatVersion
// has to change as well.
func TestFormatPinned(t *testing.T) {
	text := strings.Join(keptNames[:], " ") + "|" + strings.Join(words[:], " ")
	if sum := crc32.ChecksumIEEE([]byte(text)); formatVersion != 2 || sum != 0x9571b358 {
		t.Errorf("version %d, tables %#x: a change needs a new version", formatVersion, sum)
	}
	if len(keptPlace) != len(keptNames) || len(wordPlace) != len(words) {
		t.Error("a name twice")
	}
}

func TestTooLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n")
	for i := range 900 {
		b.WriteString("--b\r\nContent-Description: " + strings.Repeat(string(rune('a'+i%26)), 1000+i) + "\r\n\r\n")
	}
	x := Open(newFS(t), dir, "id")
	defer closed(t, x)
	if err := x.Put("a", read(t, []byte(b.String()))); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.Get("a"); ok || x.Stats().TooLarge != 1 {
		t.Errorf("%+v", x.Stats())
	}
	put(t, x, 1)
	has(t, x, 1)
}

func FuzzMeta(f *testing.F) {
	for i := range 3 {
		m, err := Read(bytes.NewReader(made(i)), arrived)
		if err != nil {
			f.Fatal(err)
		}
		payload, err := new(encoder).encode(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Add([]byte("\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := decodeMeta(in)
		if err != nil {
			return
		}
		// Whatever decodes is encoded again, and decodes to the same.
		out, err := new(encoder).encode(nil, m)
		if err != nil {
			return
		}
		again, err := decodeMeta(out)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "again", again, m)
		m.Root.BodyStructure()
		HeaderFields(m, []string{"subject"})
	})
}

func FuzzRead(f *testing.F) {
	f.Add(made(1))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>x<style>y\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: z\r\n\r\nw"))
	f.Add([]byte("Content-Type: text/plain; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\nDate: Mon, 99\r\n\r\n====\r\n> q\r\n-- \r\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		m := read(t, msg)
		if n := len([]rune(m.Preview)); n > previewLength {
			t.Fatalf("a preview of %d characters", n)
		}
		payload, err := new(encoder).encode(nil, m)
		if err != nil {
			return
		}
		got, err := decodeMeta(payload)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "round trip", got, m)
		checkHeader(t, rand.New(rand.NewPCG(uint64(len(msg)), 0)), msg, got)
	})
}

// valuesOf gives the values of all fields of a name, in any case and in the header's
// order: unfolded, otherwise raw. known is false when m cannot tell: the name is
// not kept, or one of the fields was too much.
func valuesOf(m *mailbox.Meta, name string) (values []string, known bool) {
	name = strings.ToLower(name)
	if _, known = keptPlace[name]; !known {
		return nil, false
	}
	for i := range m.Fields {
		switch f := &m.Fields[i]; {
		case f.Name != name:
		case f.Cut:
			return nil, false
		default:
			values = append(values, f.Value)
		}
	}
	return values, true
}

package fetch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"waypost/backend/mime"
	"waypost/internal/dovecottest"
	"waypost/internal/testmail"
)

// dovecot is Debian's Dovecot, its imap process alone, on one folder.
type dovecot struct {
	home *dovecottest.Home
	in   io.Writer
	out  checker
	tag  int
}

// startDovecot serves messages, in their order.
func startDovecot(t *testing.T, messages [][]byte) *dovecot {
	t.Helper()
	d := &dovecot{home: dovecottest.New(t, "imap")}
	for i, m := range messages {
		d.home.Write(fmt.Sprintf("Maildir/cur/%010d.M%d.test:2,S", 1600000000+i, i), m)
	}
	d.start(t)
	return d
}

// start starts the process, again if it has crashed.
func (d *dovecot) start(t *testing.T) {
	t.Helper()
	client, _ := d.home.Begin("imap")
	d.in, d.out = client, checker{bufio.NewReaderSize(client, 64<<10)}
	if _, err := d.out.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if answer := d.command(t, "SELECT INBOX", nil); !strings.HasPrefix(answer, "OK") {
		t.Fatalf("dovecot: SELECT: %s", answer)
	}
}

// crash is the answer where there is none: some messages make Dovecot fail an assertion.
const crash = "NO crash"

// command sends a command and gives its tagged answer; each line that is not a FETCH is
// passed over.
func (d *dovecot) command(t *testing.T, text string, fetched func(map[string]value)) string {
	t.Helper()
	d.tag++
	tag := fmt.Sprintf("a%d", d.tag)
	if _, err := io.WriteString(d.in, tag+" "+text+"\r\n"); err != nil {
		t.Fatal(err)
	}
	for {
		start, err := d.out.r.Peek(2)
		if err == io.EOF {
			d.start(t)
			return crash
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if string(start) == "* " && fetched != nil {
			if line, _ := d.out.r.Peek(20); strings.Contains(string(line), " FETCH (") {
				_, items, _, err := d.out.line("FETCH")
				if err != nil {
					t.Fatalf("%s: dovecot: %v", text, err)
				}
				fetched(items)
				continue
			}
		}
		line, err := d.out.r.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
}

// sample is a message of the comparison.
type sample struct {
	name string
	raw  []byte
}

func samples(t *testing.T) []sample {
	var all []sample
	bad := nasty()
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		all = append(all, sample{"nasty " + name, []byte(bad[name])})
	}
	corpus, real, err := testmail.Load(t.TempDir(), 2000)
	if err != nil {
		t.Fatal(err)
	}
	kind := "corpus"
	if !real {
		kind = "made"
	}
	for i, m := range corpus {
		all = append(all, sample{fmt.Sprintf("%s %d", kind, i), m.Body})
	}
	return all
}

// paths are the part numbers of a message, and one that does not exist; multi of them are
// multiparts.
func paths(root *mime.Part) (out []string, multi map[string]bool) {
	multi = make(map[string]bool)
	var walk func(prefix string, p *mime.Part)
	walk = func(prefix string, p *mime.Part) {
		at := func(n int) string { return strings.TrimPrefix(fmt.Sprintf("%s.%d", prefix, n), ".") }
		if !p.Multipart() {
			out = append(out, at(1))
		}
		for i, c := range p.Children {
			if len(out) > 12 {
				return
			}
			out = append(out, at(i+1))
			if c.Multipart() {
				multi[at(i+1)] = true
				walk(at(i+1), c)
			} else if c.Message != nil {
				walk(at(i+1), c.Message)
			}
		}
	}
	walk("", root)
	return append(out, "99"), multi
}

// lists are the item lists to be compared of a message.
func lists(s sample, root *mime.Part) []string {
	whole := "ENVELOPE BODY BODYSTRUCTURE RFC822.SIZE BODY.PEEK[HEADER] BODY.PEEK[TEXT] " +
		"BODY.PEEK[]<3.50> BODY.PEEK[HEADER.FIELDS (Subject to)] BODY.PEEK[HEADER.FIELDS.NOT (FROM Date X-Y)] " +
		"RFC822.HEADER BODY.PEEK[TEXT]<5.7>"
	all, multi := paths(root)
	var binary []string
	for _, p := range all {
		whole += fmt.Sprintf(" BODY.PEEK[%[1]s] BODY.PEEK[%[1]s.MIME] BODY.PEEK[%[1]s]<2.9> BODY.PEEK[%[1]s.HEADER] "+
			"BODY.PEEK[%[1]s.TEXT] BODY.PEEK[%[1]s.HEADER.FIELDS (Subject)]", p)
		// BINARY of a multipart is as it is, parts and all: it may have no encoding (RFC
		// 2045, Section 6.4). Dovecot decodes the parts: nothing to compare.
		if !multi[p] {
			binary = append(binary, "BINARY.SIZE["+p+"]", "BINARY.PEEK["+p+"]", "BINARY.PEEK["+p+"]<2.3>")
		}
	}
	if !strings.HasPrefix(s.name, "nasty") {
		binary = []string{strings.Join(binary, " ")}
	}
	return append(binary, whole)
}

// TestDovecot compares answers with Dovecot's, message by message and item by item.
func TestDovecot(t *testing.T) {
	all := samples(t)
	raw := make([][]byte, len(all))
	for i := range all {
		raw[i] = all[i].raw
	}
	d := startDovecot(t, raw)
	c := comparison{t: t, explained: map[string]int{}, named: map[string]int{}}
	for i, s := range all {
		o := newOne(t, wired(s.raw))
		for _, list := range lists(s, o.meta.Root) {
			got, _, err := items(request(t, "("+list+")", Options{}), o, o.message())
			if errors.Is(err, ErrUnknownEncoding) {
				got, err = map[string]value{"NO UNKNOWN-CTE": {}}, nil
			}
			if err != nil {
				t.Fatalf("%s: %s: %v", s.name, list, err)
			}
			want := map[string]value{}
			answer := d.command(t, fmt.Sprintf("FETCH %d (%s)", i+1, list), func(items map[string]value) {
				delete(items, "FLAGS")
				delete(items, "UID")
				maps.Copy(want, items)
			})
			switch {
			case answer == crash:
				want["CRASH"] = value{}
			case strings.HasPrefix(answer, "NO "):
				code, _, _ := strings.Cut(strings.TrimPrefix(answer, "NO ["), "]")
				want["NO "+code] = value{}
			}
			c.compare(s.name, got, want)
		}
	}
	c.report()
}

// comparison gathers differences.
type comparison struct {
	t         *testing.T
	explained map[string]int
	open      int
	named     map[string]int
}

func (c *comparison) compare(name string, got, want map[string]value) {
	// Ours gives the names of fields as they were asked for, Dovecot in upper case.
	got, want = upper(got), upper(want)
	keys := map[string]bool{}
	for k := range got {
		keys[k] = true
	}
	for k := range want {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		g, hasGot := got[k]
		w, hasWant := want[k]
		if hasGot == hasWant && g.String() == w.String() {
			continue
		}
		_, refused := want["NO PARSE"]
		_, crashed := want["CRASH"]
		why := explain(name, k, g, w)
		if refused || crashed {
			why = whyLenient
		}
		if why != "" {
			c.explained[why]++
			continue
		}
		c.open++
		if _, worse := keys["BODYSTRUCTURE"]; worse && k == "BODY" {
			continue
		}
		if c.named[name]++; c.named[name] <= 4 && c.open <= 1000 {
			c.t.Errorf("%s: %s\n got  %v %.700s\n want %v %.700s", name, k, hasGot, g, hasWant, w)
		}
	}
}

func upper(items map[string]value) map[string]value {
	out := make(map[string]value, len(items))
	for k, v := range items {
		out[strings.ToUpper(k)] = v
	}
	return out
}

func (c *comparison) report() {
	for _, why := range slices.Sorted(maps.Keys(c.explained)) {
		c.t.Logf("%5d %s", c.explained[why], why)
	}
	if c.open > 0 {
		c.t.Errorf("%d differences without an explanation", c.open)
	}
}

package search

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
	"waypost/internal/testmail"
)

// folder is a View of messages in memory.
type folder struct {
	list    []mailbox.Message
	bodies  [][]byte
	metas   []*mailbox.Meta
	dates   []time.Time
	saved   []time.Time
	recent  map[mailbox.UID]bool
	search  []mailbox.UID // "$"
	gone    map[mailbox.UID]bool
	threads map[mailbox.UID]string
	opened  map[mailbox.UID]int
}

func newFolder() *folder {
	return &folder{recent: map[mailbox.UID]bool{}, gone: map[mailbox.UID]bool{}, opened: map[mailbox.UID]int{}}
}

// day0 is when the first message of a test's folder arrived.
var day0 = time.Date(2024, 2, 28, 22, 30, 0, 0, time.UTC)

// add puts a message in; UIDs are 10, 20, ...
func (f *folder) add(t testing.TB, body []byte, flags mailbox.Flags, date time.Time) {
	t.Helper()
	meta, err := index.Read(bytes.NewReader(body), date)
	if err != nil {
		t.Fatal(err)
	}
	n := len(f.list) + 1
	f.list = append(f.list, mailbox.Message{
		UID: mailbox.UID(10 * n), Flags: flags, Size: int64(len(body)), WireSize: int64(len(body)),
		ModSeq: uint64(1000 + n*7919%1000), GUID: fmt.Sprintf("guid%d", n),
	})
	f.bodies, f.metas, f.dates = append(f.bodies, body), append(f.metas, meta), append(f.dates, date)
}

func (f *folder) at(uid mailbox.UID) int {
	i, ok := slices.BinarySearchFunc(f.list, uid, func(m mailbox.Message, uid mailbox.UID) int { return int(m.UID) - int(uid) })
	if !ok {
		panic("no such UID")
	}
	return i
}

func (f *folder) check(uid mailbox.UID) error {
	if f.gone[uid] {
		return fmt.Errorf("message %d: %w", uid, mailbox.ErrNoMessage)
	}
	return nil
}

func (f *folder) Len() int { return len(f.list) }

func (f *folder) From(from int) iter.Seq2[int, *mailbox.Message] {
	return func(yield func(int, *mailbox.Message) bool) {
		for i := from; i < len(f.list); i++ {
			if !yield(i, &f.list[i]) {
				return
			}
		}
	}
}

func (f *folder) Resolve(set syntax.Set, byUID bool) []Span {
	var in []bool
	mark := func(ok func(i int) bool) {
		for i := range in {
			in[i] = in[i] || ok(i)
		}
	}
	in = make([]bool, len(f.list))
	if set.Saved {
		mark(func(i int) bool { return slices.Contains(f.search, f.list[i].UID) })
	}
	for _, r := range set.Ranges {
		star := uint32(len(f.list))
		number := func(i int) uint32 { return uint32(i + 1) }
		if byUID {
			star = 0
			if n := len(f.list); n > 0 {
				star = uint32(f.list[n-1].UID)
			}
			number = func(i int) uint32 { return uint32(f.list[i].UID) }
		}
		a, b := r.Start, r.Stop
		if a == 0 {
			a = star
		}
		if b == 0 {
			b = star
		}
		mark(func(i int) bool { return number(i) >= min(a, b) && number(i) <= max(a, b) })
	}
	var spans []Span
	for i, ok := range in {
		switch n := len(spans); {
		case !ok:
		case n > 0 && spans[n-1].Hi == i:
			spans[n-1].Hi++
		default:
			spans = append(spans, Span{i, i + 1})
		}
	}
	return spans
}

func (f *folder) Recent(uid mailbox.UID) bool { return f.recent[uid] }

func (f *folder) InternalDate(uid mailbox.UID) (time.Time, error) {
	return f.dates[f.at(uid)], f.check(uid)
}

func (f *folder) SaveDate(uid mailbox.UID) (time.Time, error) {
	if f.saved == nil {
		return time.Time{}, f.check(uid)
	}
	return f.saved[f.at(uid)], f.check(uid)
}

func (f *folder) EmailID(uid mailbox.UID) (string, error) {
	return f.list[f.at(uid)].GUID, f.check(uid)
}

func (f *folder) ThreadID(uid mailbox.UID) (string, error) { return f.threads[uid], f.check(uid) }

func (f *folder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	return f.metas[f.at(uid)], f.check(uid)
}

type body struct {
	*bytes.Reader
	f *folder
}

func (b body) WireSize() int64 { return b.Size() }

func (b body) Close() error { return nil }

func (f *folder) Open(uid mailbox.UID) (mailbox.Body, error) {
	if err := f.check(uid); err != nil {
		return nil, err
	}
	f.opened[uid]++
	return body{bytes.NewReader(f.bodies[f.at(uid)]), f}, nil
}

// quick is a folder that is a HeaderView.
type quick struct{ *folder }

func (q quick) Headers(names []string) func(mailbox.UID, func(*mime.Field)) error {
	return func(uid mailbox.UID, each func(*mime.Field)) error {
		m, err := q.Meta(uid)
		if err != nil {
			return err
		}
		for i := range m.Fields {
			if slices.Contains(names, m.Fields[i].Name) {
				each(&m.Fields[i])
			}
		}
		return nil
	}
}

// input is a client that sends all it has.
type input struct{ *strings.Reader }

func (in input) Line(max int) ([]byte, error) {
	var line []byte
	for {
		c, err := in.ReadByte()
		if err == io.EOF && len(line) > 0 {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
		if c == '\n' {
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if line = append(line, c); len(line) > max {
			return nil, syntax.ErrTooBig
		}
	}
}

func (in input) Continue() error { return nil }

// parse reads a command like "UID SEARCH ALL".
func parse(command string, opts Options) (*Query, error) {
	p := syntax.New(input{strings.NewReader(command + "\r\n")}, syntax.Limits{Command: 1 << 20})
	if err := p.Next(); err != nil {
		return nil, err
	}
	name, err := p.Name()
	if name == "UID" && err == nil {
		opts.ByUID = true
		if err = p.SP(); err == nil {
			name, err = p.Name()
		}
	}
	if err != nil {
		return nil, err
	}
	return Parse(p, map[string]Command{"SEARCH": Search, "SORT": Sort, "THREAD": Thread}[name], opts)
}

// answer runs a command and gives the untagged response without its line end.
func answer(t testing.TB, v View, command string, opts Options) string {
	t.Helper()
	q, err := parse(command, opts)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	res, err := q.Run(t.Context(), v, Env{Slots: NewSlots(1).Of("ann")})
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return written(res)
}

func written(res *Result) string {
	var out bytes.Buffer
	e := syntax.NewEncoder(&out, syntax.Buffers())
	res.Write(e, "A1")
	_ = e.Flush() // a buffer has no errors
	return strings.TrimSuffix(out.String(), "\r\n")
}

// corpus is a folder of the test corpus, dates in no order, with some flags.
func corpus(t testing.TB, n int) *folder {
	t.Helper()
	msgs, _, err := testmail.Load(t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	f := newFolder()
	for i, m := range msgs {
		f.add(t, m.Body, flagsOf(i), arrivedAt(i))
	}
	return f
}

func flagsOf(i int) mailbox.Flags {
	flags := mailbox.Flags{System: mailbox.System(i * 37 % 32)}
	if i%5 == 0 {
		flags.Keywords = []string{"$Work"}
	}
	return flags
}

// arrivedAt gives each message its own second, some hours apart, in no order.
func arrivedAt(i int) time.Time {
	return time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i*7919%100000) * 601 * time.Second)
}

package quota

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
)

// TestLogsAgreeWithModel runs random operations on several Logs of one file,
// beside foreign appenders that keep descriptors of files since replaced, and
// compares with a plain sum.
func TestLogsAgreeWithModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &machine{path: filepath.Join(dir, "maildirsize"), strangers: map[int]*os.File{}}
		defer m.close()
		for range 3 {
			m.logs = append(m.logs, m.open(rt))
		}
		m.recount(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"":             m.check,
			"add":          m.add,
			"burst":        m.burst,
			"set limit":    m.setLimit,
			"recount":      m.recount,
			"begin":        m.begin,
			"finish":       m.finish,
			"drop":         func(*rapid.T) { m.counting = nil },
			"reopen":       m.reopen,
			"foreign open": m.foreignOpen,
			"foreign add":  m.foreignAdd,
			"foreign torn": m.foreignTorn,
		})
	})
}

type machine struct {
	path      string
	logs      []*Log
	strangers map[int]*os.File
	want      Usage
	limit     Limit
	counting  *Counting // with what the mailbox held then
	held      Usage
	rewrites  int // at most, since the oldest stranger came
}

func (m *machine) open(t *rapid.T) *Log {
	l, err := Open(vfs.OS, m.path, m.limit)
	if err != nil {
		t.Fatal(err)
	}
	l.lookEvery = 0
	return l
}

func (m *machine) close() {
	for _, l := range m.logs {
		l.Close()
	}
	m.dismiss()
}

func (m *machine) dismiss() {
	for n, f := range m.strangers {
		f.Close()
		delete(m.strangers, n)
	}
	m.rewrites = 0
}

// rewriting counts what may replace the file; descriptors older than
// maxReplaced generations are beyond the promise.
func (m *machine) rewriting() {
	if m.rewrites++; m.rewrites >= maxReplaced {
		m.dismiss()
	}
}

func (m *machine) pick(t *rapid.T) *Log { return rapid.SampledFrom(m.logs).Draw(t, "log") }

func drawUsage(t *rapid.T, label string) Usage {
	return Usage{
		Bytes:    rapid.Int64Range(-1<<40, 1<<40).Draw(t, label+" bytes"),
		Messages: rapid.Int64Range(-1000, 1000).Draw(t, label+" messages"),
	}
}

func (m *machine) count(u Usage) {
	m.want = Usage{m.want.Bytes + u.Bytes, m.want.Messages + u.Messages}
}

func (m *machine) addTo(t *rapid.T, l *Log, u Usage) {
	if err := l.Add(u.Bytes, u.Messages); err != nil {
		t.Fatal(err)
	}
	m.count(u)
}

func (m *machine) add(t *rapid.T) {
	m.rewriting()
	m.addTo(t, m.pick(t), drawUsage(t, "add"))
}

func (m *machine) burst(t *rapid.T) {
	l, u := m.pick(t), drawUsage(t, "burst")
	m.rewriting()
	for range rapid.IntRange(1, 150).Draw(t, "times") {
		m.addTo(t, l, u)
	}
}

func (m *machine) setLimit(t *rapid.T) {
	m.rewriting()
	m.limit = Limit{rapid.Int64Range(0, 1<<50).Draw(t, "bytes"), rapid.Int64Range(0, 9).Draw(t, "messages")}
	for _, l := range m.logs {
		if err := l.SetLimit(m.limit); err != nil {
			t.Fatal(err)
		}
	}
}

// settle lets every Log carry over what it knows of.
func (m *machine) settle(t *rapid.T) {
	for _, l := range m.logs {
		if _, err := l.Usage(); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *machine) recount(t *rapid.T) {
	if m.want != (Usage{}) {
		m.settle(t)
	}
	m.rewriting()
	m.want, m.counting = drawUsage(t, "recount"), nil
	if _, err := m.pick(t).Recount(func() (Usage, error) { return m.want, nil }); err != nil {
		t.Fatal(err)
	}
}

// begin begins a recount that corrects the sum by something.
func (m *machine) begin(t *rapid.T) {
	m.settle(t)
	m.rewriting()
	c, err := m.pick(t).BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	m.counting, m.held = c, drawUsage(t, "held")
}

func (m *machine) finish(t *rapid.T) {
	if m.counting == nil {
		t.Skip("none begun")
	}
	m.settle(t)
	m.rewriting()
	quiet, err := m.counting.Finish(m.held)
	since := Usage{m.want.Bytes - m.counting.before.Bytes, m.want.Messages - m.counting.before.Messages}
	if err != nil || quiet && since != (Usage{}) {
		t.Fatal(quiet, err)
	}
	m.want = Usage{m.held.Bytes + since.Bytes, m.held.Messages + since.Messages}
	m.counting = nil
}

func (m *machine) reopen(t *rapid.T) {
	m.counting = nil
	m.dismiss() // a closed Log watches no longer
	i := rapid.IntRange(0, len(m.logs)-1).Draw(t, "log")
	if err := m.logs[i].Close(); err != nil {
		t.Fatal(err)
	}
	m.logs[i] = m.open(t)
}

func (m *machine) foreignOpen(t *rapid.T) {
	n := rapid.IntRange(0, 3).Draw(t, "stranger")
	if m.strangers[n] != nil {
		t.Skip("has it open")
	}
	f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.strangers[n] = f
}

func (m *machine) foreignAdd(t *rapid.T) {
	f := m.strangers[rapid.IntRange(0, 3).Draw(t, "stranger")]
	if f == nil {
		t.Skip("has it not open")
	}
	u := drawUsage(t, "foreign")
	if _, err := f.Write(u.line()); err != nil {
		t.Fatal(err)
	}
	m.count(u)
}

// foreignTorn leaves a torn line in the current file, which the next Add must
// not run into. Strangers that append behind it would: they go before.
func (m *machine) foreignTorn(t *rapid.T) {
	m.dismiss()
	f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(rapid.SampledFrom([]string{"1", "55 ", "55 1", "-"}).Draw(t, "torn")); err != nil {
		t.Fatal(err)
	}
	m.addTo(t, m.pick(t), drawUsage(t, "add"))
}

func (m *machine) check(t *rapid.T) {
	m.settle(t)
	for i, l := range m.logs {
		if got, err := l.Usage(); err != nil || got != m.want {
			t.Fatalf("log %d says %+v %v, want %+v", i, got, err, m.want)
		}
		if got, err := l.Limit(); err != nil || got != m.limit {
			t.Fatalf("log %d has limit %+v %v, want %+v", i, got, err, m.limit)
		}
	}
	info, err := os.Stat(m.path)
	if err != nil || len(m.strangers) == 0 && info.Size() > 5120 {
		t.Fatalf("%d bytes long %v", info.Size(), err)
	}
}

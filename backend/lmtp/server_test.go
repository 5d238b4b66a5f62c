package lmtp

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
)

func TestConnectionLostDeliversNothing(t *testing.T) {
	for _, tail := range []string{
		"DATA\r\nSubject: x\r\n\r\nhalf a mess", "DATA\r\nx\r\n.", "DATA\r\nx\r\n.\r", "DATA\r\n",
		"BDAT 10 LAST\r\nabc", "BDAT 3\r\nabc", "BDAT 3\r\nabcBDAT 5 LA",
	} {
		f := &fakeStore{}
		d := serve(t, options(f))
		d.Play(envelope)
		d.Send(tail)
		d.Conn.Close()
		d.served.Wait()
		if len(f.delivered) > 0 || f.open > 0 || f.discarded < f.staged {
			t.Errorf("%q: delivered %q, open %d, staged %d, discarded %d", tail, f.delivered, f.open, f.staged, f.discarded)
		}
	}
}

// TestTimeouts: after a time-out the rest of a body must not run as
// commands, so the connection ends.
func TestTimeouts(t *testing.T) {
	for _, last := range []string{"DATA\r\nhalf", "BDAT 100 LAST\r\nhalf", "BDAT 1\r\nx", "NOO"} {
		f := &fakeStore{}
		opt := options(f)
		opt.Limits = Limits{Command: 50 * time.Millisecond, Data: 50 * time.Millisecond}
		d := serve(t, opt)
		d.Send("LHLO x\r\nMAIL FROM:<> XDELIVERY=1\r\nRCPT TO:<a@x.test> XHOME=b1 XEPOCH=7\r\n" + last)
		all, _ := io.ReadAll(d.Reader)
		d.served.Wait()
		if !strings.HasSuffix(string(all), "\r\n421 4.4.2 time-out\r\n") || len(f.delivered) > 0 || f.open > 0 {
			t.Errorf("%q: %q, delivered %q", last, all, f.delivered)
		}
	}
}

func TestStop(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		drain := make(chan struct{})
		opt := options(&fakeStore{})
		opt.Draining = drain
		d := serve(t, opt)
		d.Play(hello)
		close(drain)
		d.Play("S: 421 4.3.2 b1.test is shutting down\nEOF")
	})
	t.Run("a running transaction is finished", func(t *testing.T) {
		drain := make(chan struct{})
		f := &fakeStore{}
		opt := options(f)
		opt.Draining = drain
		d := serve(t, opt)
		d.Play(envelope + "C: DATA\nS: 354 go on\n")
		close(drain)
		d.Play("C: x\nC: .\nS: 250 2.0.0 delivered\nS: 421 4.3.2 b1.test is shutting down\nEOF")
		if len(f.delivered) != 1 {
			t.Error(f.delivered)
		}
	})
	t.Run("at once", func(t *testing.T) {
		f := &fakeStore{}
		d := serve(t, options(f))
		d.Play(envelope + "C: DATA\nS: 354 go on\nC: x\n")
		d.cancel()
		d.served.Wait()
		if len(f.delivered) > 0 || f.open > 0 {
			t.Error(f.delivered, f.open)
		}
	})
}

// TestFrozenMidData: a freeze does not wait for the body, and the body's
// commit then fails with the word that makes the mx hold the message.
func TestFrozenMidData(t *testing.T) {
	store := memory.New()
	store.Serve("ann@example.test", "b1", 7)
	store.Serve("bob@example.test", "b1", 7)
	opt := options(nil)
	opt.Store = store
	d := serve(t, opt)
	d.Play(envelope + `
		C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
		C: DATA
		C: x
		S: 250 2.1.5 OK
		S: 354 go on`)
	store.Freeze("ann@example.test")
	d.Play(`
		C: y
		C: .
		S: 450 4.2.1 [BUSY] the user is being moved
		S: 250 2.0.0 delivered`)
	store.Serve("ann@example.test", "b1", 9)
	box, err := store.Open(t.Context(), "ann@example.test", "b1", 9)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if u, err := box.Usage(); err != nil || u.Messages != 0 {
		t.Error(u, err)
	}
}

func TestLimits(t *testing.T) {
	opt := options(&fakeStore{})
	opt.Limits = Limits{Line: 200, Recipients: 2}
	d := serve(t, opt)
	d.Play(envelope + `
		C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
		C: RCPT TO:<eve@example.test> XHOME=b1 XEPOCH=7
		S: 250 2.1.5 OK
		S: 452 4.5.3 too many recipients
		C: NOOP ` + strings.Repeat("x", 200) + `
		S: 500 5.5.2 line too long
		EOF`)

	// Without an end of line the reader's buffer is the limit.
	d = serve(t, options(&fakeStore{}))
	d.Play("S: 220 b1.test LMTP Waypost")
	go d.Conn.Write(bytes.Repeat([]byte{'x'}, readBuffer+1))
	d.Play("S: 500 5.5.2 line too long")

	d = serve(t, options(&fakeStore{}))
	d.Send(strings.Repeat("X\r\n", maxBadCommands+1))
	all, _ := io.ReadAll(d.Reader)
	if !strings.HasSuffix(string(all), "421 4.7.0 too many bad commands\r\n") {
		t.Errorf("%q", all)
	}
}

func TestMetricsAndLog(t *testing.T) {
	reg := prometheus.NewRegistry()
	var log bytes.Buffer
	opt := options(&fakeStore{openErr: users{"bob@x.test": mailbox.ErrStale}})
	opt.Metrics, opt.Log = reg, slog.New(slog.NewTextHandler(&log, nil))
	d := serve(t, opt)
	d.Play(envelope + `
		C: RCPT TO:<bob@x.test> XHOME=b1 XEPOCH=7
		S: 451 ...
		C: DATA
		C: the text
		C: .
		S: 354 go on
		S: 250 2.0.0 delivered
		C: QUIT
		S: 221 2.0.0 bye
		EOF`)
	d.served.Wait()
	got := gather(t, reg)
	for name, want := range map[string]float64{
		"waypost_lmtp_deliveries_total ok": 1, "waypost_lmtp_recipients_total ok": 1,
		"waypost_lmtp_recipients_total stale": 1, "waypost_lmtp_sessions": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	if s := log.String(); !strings.Contains(s, "id=id-1") || strings.Contains(s, "the text") {
		t.Error(s)
	}
}

// gather reads the counters and gauges of reg, by name and label values.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

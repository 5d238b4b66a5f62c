package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// TestPace: a copy is held to its pace, which may be changed while it runs, and is
// over with its move.
func TestPace(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 8 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), "Subject: x\r\n\r\n"+strings.Repeat(strings.Repeat("x", 998)+"\r\n", 512)))
	}
	m, _ := r.plan("b2", "m1")
	_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	pace := func(epoch director.Epoch, rate int64) int64 {
		t.Helper()
		p, err := call[control.PaceReply](r, r.mover, "b1", control.PathPace, control.PaceRequest{User: alice, Epoch: epoch, BytesPerSecond: rate})
		r.must(err)
		return p.BytesPerSecond
	}
	if got := pace(m.Epoch+1, 1); got != minPace {
		t.Errorf("a pace that cannot be kept was not raised: %d", got)
	}
	pace(m.Epoch+1, 2<<20)
	begun := time.Now()
	r.must(r.pull(m, false))
	if took := time.Since(begun); took < time.Second {
		t.Errorf("4 MiB at 2 MiB/s took %v", took)
	}
	pace(m.Epoch, 1<<20) // an earlier move's word
	p := &r.nodes["b1"].paces
	rate := func() int64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		if x := p.all[alice]; x != nil {
			return x.rate
		}
		return 0
	}
	if rate() != 2<<20 {
		t.Errorf("the pace became %d", rate())
	}
	if err := p.join(alice, m.Epoch+3, nil); err != nil || rate() != 0 {
		t.Errorf("a later move is held to the pace of an earlier one: %d, %v", rate(), err)
	}
	p.leave(nil)
	if p.all[alice] != nil {
		t.Error("the pace is remembered for nobody")
	}
	if _, err := call[control.PaceReply](r, r.mover, "b1", control.PathPace, control.PaceRequest{User: alice, BytesPerSecond: -1}); !control.IsCode(err, control.CodeBad) {
		t.Errorf("a pace below 0: %v", err)
	}
}

// TestLoad: what users wait for, and what is copied, is told to movers.
func TestLoad(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 5 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), "x\r\n"))
	}
	r.count("b1", rec.Epoch)
	l, err := call[control.LoadReply](r, r.mover, "b1", control.PathLoad, control.LoadRequest{})
	r.must(err)
	if l.Deliveries.PerSecond != 0.5 || l.Deliveries.P95MS <= 0 || l.Deliveries.MeanMS <= 0 || l.Commands.PerSecond <= 0 {
		t.Errorf("%+v", l)
	}
	r.toSealed("b2", "m1")
	l, err = call[control.LoadReply](r, r.mover, "b2", control.PathLoad, control.LoadRequest{})
	r.must(err)
	if l.CopiedBytesPerSecond <= 0 || l.Deliveries.PerSecond != 0 {
		t.Errorf("%+v", l)
	}
}

// TestSystemLoad reads what Linux tells, and takes what it does not tell for no load.
func TestSystemLoad(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newSystemLoad(root, root)
	now := time.Unix(1000, 0)
	read := func() (l control.LoadReply) { s.read(now); s.fill(&l); return l }
	if l := read(); l != (control.LoadReply{}) {
		t.Errorf("nothing is told: %+v", l)
	}
	s.device = "8 1"
	disk := func(ms int) string {
		return fmt.Sprintf("   8       0 sda 1 2 3 4 5 6 7 8 9 99999 11\n   8       1 sda1 1 2 3 4 5 6 7 8 9 %d 11 0 0 0 0\n", ms)
	}
	network := func(in, out int) string {
		return fmt.Sprintf("Inter-|   Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: %d 0 0 0 0 0 0 0 %d 0 0\n", in, out)
	}
	put("proc/diskstats", disk(5000))
	put("proc/net/dev", network(1_000_000, 0))
	put("proc/pressure/io", "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0 avg300=0 total=1\n")
	put("sys/class/net/eth0/speed", "100\n")
	now = now.Add(time.Second)
	read()
	put("proc/diskstats", disk(5500))
	put("proc/net/dev", network(1_000_000, 6_250_000))
	now = now.Add(time.Second)
	l := read()
	if l.DiskPercent != 50 || l.IOPressurePercent != 12.5 || l.NetworkBytesPerSecond != 5_250_000 || l.NetworkPercent != 42 {
		t.Errorf("%+v", l)
	}
	now = now.Add(time.Millisecond)
	if again := read(); again != l {
		t.Errorf("too soon: %+v", again)
	}
	put("proc/diskstats", "garbage\n8 1 sda1 1 2 3 4 5 6 7 8 9 x 11\n")
	put("proc/pressure/io", "some avg10=x")
	put("proc/net/dev", "eth0: 1")
	now = now.Add(time.Second)
	if l := read(); l.IOPressurePercent != 0 || l.NetworkBytesPerSecond != 0 {
		t.Errorf("what is not legible is no load: %+v", l)
	}
}

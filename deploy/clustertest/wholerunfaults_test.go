package clustertest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// What an outage is, where it excuses something.
const (
	killedProxy   = "proxy killed"
	killedMX      = "mx killed"
	killedBackend = "backend killed"
)

// faults starts the moves and, as they go on, causes one fault after the other, at
// equal parts of all moves.
func (w *wholeRun) faults(n *network, disk *extDisk) {
	w.startMoves()
	list := []struct {
		what string
		do   func()
	}{
		{"kill -9 of the mover", func() { w.restart("", "r1", syscall.SIGKILL) }},
		{"kill -9 of the director", func() { w.restart("", "d1", syscall.SIGKILL) }},
		{"SIGTERM of backend b1", func() { w.restart("", "b1", syscall.SIGTERM) }},
		{"kill -9 of mx1", func() { w.restart(killedMX, "mx1", syscall.SIGKILL) }},
		{"kill -9 of backend b2", func() { w.restart(killedBackend, "b2", syscall.SIGKILL) }},
		{"network of " + cutBackend + " cut", func() { w.cut(n) }},
		{"SIGTERM of the mover", func() { w.restart("", "r1", syscall.SIGTERM) }},
		{"disk of b2 full", func() { w.fill(disk) }},
		{"kill -9 of proxy p2", func() { w.restart(killedProxy, "p2", syscall.SIGKILL) }},
		{"kill -9 of backend b1", func() { w.restart(killedBackend, "b1", syscall.SIGKILL) }},
		{"SIGTERM of the director", func() { w.restart("", "d1", syscall.SIGTERM) }},
	}
	for i, f := range list {
		w.progress(float64(i+1) / float64(len(list)+2))
		began := time.Now()
		f.do()
		w.t.Logf("%s %s: %s, %d moves are done", clock(began), f.what, time.Since(began).Round(time.Millisecond), w.moved.Load())
	}
}

// restart ends a process, starts it again, and waits until it serves.
func (w *wholeRun) restart(what, name string, how syscall.Signal) {
	gone, over := w.begins(what, name)
	defer over()
	p := w.c.procs[name]
	p.signal(how)
	p.waitEnd(patience)
	gone()
	p.start(w.t)
	p.waitReady(w.t)
}

// cut takes a backend off the network, longer than others wait before they call it dead.
func (w *wholeRun) cut(n *network) {
	_, over := w.begins("network", cutBackend)
	defer over()
	n.cut()
	select {
	case <-time.After(6 * time.Second): // the fault, not a wait for something
	case <-w.stop:
	}
	n.mend()
}

// fill leaves no byte on a backend's disk until enough mail has come for it nevertheless.
func (w *wholeRun) fill(d *extDisk) {
	_, over := w.begins("disk", "b2")
	defer over()
	path := filepath.Join(d.dir, "filler")
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		w.t.Error(err)
		return
	}
	free := int64(st.Bfree) * st.Bsize
	for free >= 4096 { // what is free is not in one piece, and others write
		if out, err := exec.Command("fallocate", "-o", "0", "-l", itoa(sizeOf(path)+free), path).CombinedOutput(); err != nil && sizeOf(path) == 0 {
			w.t.Logf("fallocate: %v: %s", err, out)
		}
		free /= 2
	}
	if err := os.WriteFile(filepath.Join(d.dir, "probe"), make([]byte, 64<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		w.t.Errorf("the disk is not full: %v", err)
	}
	w.more(int64(2 * len(w.users)))
	for _, name := range []string{path, filepath.Join(d.dir, "probe")} {
		if err := os.Remove(name); err != nil {
			w.t.Error(err)
		}
	}
}

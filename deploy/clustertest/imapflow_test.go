package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// flowStep is a line of testdata/imapflow/imapflow.mjs.
type flowStep struct {
	Step, Text                string
	Enabled                   []string
	Compressed, Same, Qresync bool
	UIDs                      []uint32
	List                      json.RawMessage
	Keyword, Subject, From    []uint32
	To                        string
	Exists, Count, PrevCount  int
	UIDValidity, ModSeq       string
	Gone                      []flowGone
	Flagged                   []flowMessage
	TextUIDs                  []uint32
	at                        time.Time
}

type flowGone struct {
	UID               uint32
	Vanished, Earlier bool
}

type flowMessage struct {
	UID     uint32
	Flags   []string
	Subject string
}

// flow is a run of imapflow.
type flow struct {
	t     *testing.T
	lines *bufio.Scanner
	wait  func()
}

// flowHome has imapflow installed: by .ci/run, which says where, or from here.
func flowHome(t *testing.T) string {
	t.Helper()
	home := os.Getenv("WAYPOST_IMAPFLOW")
	if home == "" {
		home = t.TempDir()
		for _, name := range []string{"package.json", "package-lock.json"} {
			b, err := os.ReadFile(filepath.Join("testdata/imapflow", name))
			if err != nil {
				t.Fatal(err)
			}
			put(t, home, name, string(b), 0o600)
		}
		ctx, cancel := context.WithTimeout(t.Context(), toolTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = home
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("imapflow is not to be had: npm ci: %v: %.2000s", err, out)
		}
	}
	b, err := os.ReadFile("testdata/imapflow/imapflow.mjs")
	if err != nil {
		t.Fatal(err)
	}
	put(t, home, "imapflow.mjs", string(b), 0o600)
	return home
}

func (c *clients) flow(t *testing.T, f *far, home string, more ...string) *flow {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolTime)
	args := append([]string{"imapflow.mjs", fmt.Sprint(1993 + c.offset), c.ca, string(f.u), password}, more...)
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = home
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	// Also when the test ends early; a second time it does nothing.
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return &flow{t: t, lines: bufio.NewScanner(out), wait: func() {
		t.Helper()
		if err := cmd.Wait(); err != nil || complaints.Len() > 0 {
			t.Errorf("imapflow: %v: %.2000s", err, complaints.String())
		}
	}}
}

// next gives the next line, which must be of that step.
func (w *flow) next(step string) (s flowStep) {
	w.t.Helper()
	if !w.lines.Scan() {
		w.wait()
		w.t.Fatalf("imapflow ended before %q", step)
	}
	s.at = time.Now()
	if err := json.Unmarshal(w.lines.Bytes(), &s); err != nil || s.Step != step {
		w.t.Fatalf("imapflow says %.500s, want %q (%v)", w.lines.Bytes(), step, err)
	}
	return s
}

func (w *flow) messages(s flowStep) (all []flowMessage) {
	w.t.Helper()
	if err := json.Unmarshal(s.List, &all); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// imapflow keeps up with a mailbox by CONDSTORE, QRESYNC and IDLE.
func (c *clients) imapflow(t *testing.T, f *far) {
	home := flowHome(t)
	w := c.flow(t, f, home)
	s := w.next("connected")
	for _, want := range []string{"CONDSTORE", "QRESYNC", "UTF8=ACCEPT"} {
		if !slices.Contains(s.Enabled, want) {
			t.Errorf("enabled are %q, without %s", s.Enabled, want)
		}
	}
	t.Logf("enabled: %q, compressed: %v", s.Enabled, s.Compressed)
	uids := w.next("appended").UIDs
	if len(uids) != 4 {
		t.Fatalf("appended: %v", uids)
	}
	changed := w.messages(w.next("changed"))
	if len(changed) != 1 || changed[0].UID != uids[1] || !slices.Equal(changed[0].Flags, []string{"$flow", "\\Flagged"}) || changed[0].Subject != "flow 2 Grüße" {
		t.Errorf("changed since: %+v", changed)
	}
	if s = w.next("search"); !slices.Equal(s.Keyword, uids[:2]) || !slices.Equal(s.TextUIDs, uids[2:]) {
		t.Errorf("search: %+v", s)
	}
	if s = w.next("moved"); s.To != "Flow/Grüße & Søren" || !slices.Equal(s.From, uids[2:3]) {
		t.Errorf("moved: %+v", s)
	}
	if !w.next("read").Same {
		t.Error("a message is read otherwise than it was written")
	}
	s = w.next("resync")
	wantGone := []flowGone{{uids[2], true, true}, {uids[3], true, true}}
	if !s.Qresync || s.Exists != 2 || !slices.Equal(s.Gone, wantGone) || len(s.Flagged) != 1 || s.Flagged[0].UID != uids[1] {
		t.Errorf("resync: %+v", s)
	}
	w.next("idle")
	f.append("INBOX", letter("while idling"))
	began := time.Now()
	if s = w.next("came"); s.Count != 3 || s.PrevCount != 2 {
		t.Errorf("while idling: %+v", s)
	}
	t.Logf("IDLE told of a message %v after it was stored", s.at.Sub(began))
	end := w.next("end")
	w.wait()

	want := make(holdings)
	want["Flow/Empty"], want["INBOX"] = nil, nil
	for i, flags := range [][]string{{"\\seen", "$flow"}, {"\\flagged", "$flow"}} {
		want.add("INBOX", flowMail(f, i+1), flags...)
	}
	want.add("INBOX", letter("while idling"))
	want.add("Flow/Grüße & Søren 2", flowMail(f, 3))
	got := f.holdings()
	if _, ok := got["Flow"]; ok {
		want["Flow"] = nil
	}
	equal(t, "imapflow", got, want)

	f.move()
	w = c.flow(t, f, home, end.UIDValidity, end.ModSeq)
	w.next("connected")
	if s = w.next("again"); !s.Qresync || s.Exists != 3 || s.UIDValidity != end.UIDValidity || s.ModSeq != end.ModSeq || len(s.Gone)+len(s.Flagged) > 0 {
		t.Errorf("after a move: %+v, before it: %+v", s, end)
	}
	w.wait()
}

// flowMail is what the script appends.
func flowMail(f *far, n int) string {
	return fmt.Sprintf("From: sender@example.org\r\nTo: %s\r\nSubject: flow %d Grüße\r\nMessage-ID: <flow%[2]d@example.org>\r\n\r\nThe text of %[2]d.\r\n", f.u, n)
}

package filter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/lmtp"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/backend/scripts"
	"waypost/director"
)

const ann = director.User("ann@example.test")

// letter is a message for ann as it lies on the disk.
const letter = "Return-Path: <bob@far.test>\nReceived: by mx\nFrom: Bob <bob@far.test>\nTo: ann@example.test\n" +
	"Message-ID: <1@far.test>\nSubject: lunch\n\nAt noon?\n.dot\n"

// fakeScripts are the scripts of all users.
type fakeScripts struct {
	mu     sync.Mutex
	active map[director.User]string
	others map[string]string
	err    error
}

func (f *fakeScripts) Active(box mailbox.Box) (scripts.Active, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	src := []byte(f.active[box.User()])
	if f.err != nil || len(src) == 0 {
		return scripts.Active{}, f.err
	}
	return scripts.Active{Name: "main of " + box.User().Local(), Source: src, Stamp: sha256.Sum256(src)}, nil
}

func (f *fakeScripts) Script(_ mailbox.Box, name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	if src, ok := f.others[name]; ok {
		return []byte(src), nil
	}
	return nil, fmt.Errorf("script %q: %w", name, scripts.ErrNonexistent)
}

// tracked is a staged message whose Discard is counted.
type tracked struct {
	mailbox.Staged
	live func(n int)
}

func (m *tracked) Discard() { m.live(-1) }

// rig is a filter before mailboxes in memory.
type rig struct {
	*memory.Store
	t       *testing.T
	scripts *fakeScripts
	account director.Account
	filter  *Filter
	box     mailbox.Box
	log     bytes.Buffer
	mu      sync.Mutex
	live    int // messages staged by the filter and not discarded
	fail    error
	n       int
}

// newRig makes a rig where ann has a script; site changes the options.
func newRig(t *testing.T, script string, site ...func(*Options)) *rig {
	t.Helper()
	r := &rig{Store: memory.New(), t: t, scripts: &fakeScripts{active: map[director.User]string{ann: script}, others: map[string]string{}}}
	o := Options{
		Scripts: r.scripts, Stage: r, Hostname: "b1.example.test", Now: time.Now, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		Account: func(director.User) (director.Account, bool) { return r.account, true },
	}
	for _, f := range site {
		f(&o)
	}
	var err error
	if r.filter, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.box = r.user(ann)
	return r
}

func (r *rig) user(u director.User) mailbox.Box {
	r.t.Helper()
	r.Serve(u, "b1", 1)
	box, err := r.Open(r.t.Context(), u, "b1", 1)
	if err != nil {
		r.t.Fatal(err)
	}
	return box
}

// Stage is the filter's; it counts.
func (r *rig) Stage(ctx context.Context, header string, in io.Reader, most int64) (mailbox.Staged, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	m, err := r.Store.Stage(ctx, header, in, most)
	if err != nil {
		return nil, err
	}
	live := func(n int) {
		r.mu.Lock()
		r.live += n
		r.mu.Unlock()
	}
	live(1)
	return &tracked{m, live}, nil
}

// incoming is a message for ann, with another id each time.
func (r *rig) incoming(text string) lmtp.Incoming {
	r.t.Helper()
	m, err := r.Store.Stage(r.t.Context(), "", strings.NewReader(text), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.n++
	return lmtp.Incoming{Box: r.box, ID: fmt.Sprintf("d%d", r.n), From: "bob@far.test", To: "ann@example.test", Message: m}
}

// run runs the filter and carries out its plan, as package lmtp does.
func (r *rig) run(in lmtp.Incoming) (plan lmtp.Plan, err error) {
	r.t.Helper()
	plan, err = r.filter.Run(r.t.Context(), in)
	if plan.Discard == nil {
		r.t.Fatal("a plan without Discard")
	}
	defer func() {
		plan.Discard()
		if r.live != 0 {
			r.t.Errorf("%d staged messages are left", r.live)
		}
	}()
	if err != nil || plan.Reject != "" {
		return plan, err
	}
	d := plan.Delivery
	d.Places, d.Outbound = slices.Clone(d.Places), slices.Clone(d.Outbound)
	for i, p := range d.Places {
		if m, is := p.Message.(*tracked); is {
			d.Places[i].Message = m.Staged
		}
	}
	for i, o := range d.Outbound {
		if m, is := o.Message.(*tracked); is {
			d.Outbound[i].Message = m.Staged
		}
	}
	d.ID, d.Message, d.Force = in.ID, in.Message, in.Accepted
	return plan, in.Box.Deliver(r.t.Context(), d)
}

// deliver is run for who expects no error.
func (r *rig) deliver(in lmtp.Incoming) lmtp.Plan {
	r.t.Helper()
	plan, err := r.run(in)
	if err != nil {
		r.t.Fatal(err)
	}
	return plan
}

// holds shows a mailbox: each folder with the flags of its messages.
func (r *rig) holds(box mailbox.Box) string {
	r.t.Helper()
	folders, err := box.Folders()
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, info := range folders {
		if info.NoSelect {
			continue
		}
		for _, m := range r.messages(box, info.Name) {
			out = append(out, strings.TrimSpace(fmt.Sprint(info.Name, " ", flagText(m.Flags))))
		}
	}
	return strings.Join(out, "; ")
}

func flagText(f mailbox.Flags) string {
	var list []string
	for name, s := range systemFlags {
		if f.Has(s) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return strings.Join(append(list, f.Keywords...), " ")
}

func (r *rig) messages(box mailbox.Box, folder string) []*mailbox.Message {
	r.t.Helper()
	f, err := box.Folder(folder)
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := f.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	var list []*mailbox.Message
	for _, m := range s.Messages.All() {
		list = append(list, m)
	}
	return list
}

// texts are the messages of ann's folder, with CRLF.
func (r *rig) texts(folder string) (all []string) {
	r.t.Helper()
	f, err := r.box.Folder(folder)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range r.messages(r.box, folder) {
		body, err := f.Open(m.UID)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, read(r.t, body))
	}
	return all
}

func read(t *testing.T, body io.ReadCloser) string {
	t.Helper()
	b, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sent shows what left, one a line: kind, sender, recipients.
func (r *rig) sent(u director.User) string {
	var out []string
	for _, o := range r.Outbound(u) {
		out = append(out, fmt.Sprintf("%s <%s> %s", o.Kind, o.From, strings.Join(o.To, " ")))
	}
	return strings.Join(out, "; ")
}

// sentText is the outbound message number i of ann's.
func (r *rig) sentText(i int) string {
	r.t.Helper()
	body, err := r.Outbound(ann)[i].Message.Open()
	if err != nil {
		r.t.Fatal(err)
	}
	return read(r.t, body)
}

// file writes a script of the site.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

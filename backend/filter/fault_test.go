package filter

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// A script that fails keeps the message, and its user is told once a day.
func TestFailingScripts(t *testing.T) {
	for name, c := range map[string]struct{ script, says string }{
		"does not compile": {`require "fileinto"; fileinto;`, "main of ann:1:"},
		"at run time":      {`require ["variables", "fileinto"]; redirect "eve@other.test"; set "x" ""; fileinto "${x}";`, "main of ann, line 1"},
		"says so":          {`require "ihave"; error "my mistake";`, "my mistake"},
		"limit":            {`redirect "a@b.test"; redirect "b@b.test"; redirect "c@b.test"; redirect "d@b.test"; redirect "e@b.test";`, "limit"},
		"no include":       {`require "include"; include "nowhere";`, "nowhere"},
		"bad include":      {`require "include"; include "bad";`, "bad:1:"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.script)
				r.scripts.others["bad"] = "nonsense"
				r.deliver(r.incoming(letter))
				texts := r.texts("INBOX")
				if len(texts) != 2 || texts[0] != crlf(letter) || !strings.Contains(texts[1], c.says) || !strings.Contains(texts[1], "Subject: Your mail filter does not work\r\n") {
					t.Fatalf("%q\n%s", texts, &r.log)
				}
				if got := r.sent(ann); got != "" {
					t.Errorf("sent %s", got)
				}
				r.deliver(r.incoming(letter))
				if n := len(r.texts("INBOX")); n != 3 {
					t.Errorf("%d messages after the second", n)
				}
				<-time.After(25 * time.Hour)
				r.deliver(r.incoming(letter))
				if n := len(r.texts("INBOX")); n != 5 {
					t.Errorf("%d messages after a day", n)
				}
			})
		})
	}
}

// The site's scripts run even where the user's cannot; a forward goes on; and the
// notice is the user's own, whatever becomes of mail.
func TestAroundAFailingScript(t *testing.T) {
	r := newRig(t, `nonsense;`, func(o *Options) {
		o.Before = []string{file(t, "b.sieve", `require ["fileinto", "mailbox", "copy"]; if header "subject" "spam" { fileinto :create "Junk"; } redirect :copy "log@other.test";`)}
	})
	r.account = director.Account{Forward: []string{"eve@other.test"}, ForwardOnly: true}
	r.deliver(r.incoming(letter))
	if holds, sent := r.holds(r.box), r.sent(ann); holds != "INBOX" || sent != "redirect <bob@far.test> log@other.test; redirect <bob@far.test> eve@other.test" {
		t.Errorf("holds %q, sent %q", holds, sent)
	}
	r.account = director.Account{}
	r.deliver(r.incoming(strings.Replace(letter, "lunch", "spam", 1)))
	if holds := r.holds(r.box); holds != "INBOX; Junk" {
		t.Errorf("holds %q", holds)
	}
}

// A script of the site that fails is the operator's, not the user's.
func TestFailingSiteScripts(t *testing.T) {
	const failing = `require "ihave"; error "broken";`
	for name, site := range map[string]func(*Options){
		"before": func(o *Options) { o.Before = []string{file(t, "site.sieve", failing)} },
		"after":  func(o *Options) { o.After = []string{file(t, "site.sieve", failing)} },
		"global": func(o *Options) { o.Global = filepath.Dir(file(t, "site.sieve", failing)) },
	} {
		r := newRig(t, `require "include"; include :global :optional "site";`, site)
		r.deliver(r.incoming(letter))
		if holds := r.holds(r.box); holds != "INBOX" || !strings.Contains(r.log.String(), "level=ERROR") || !strings.Contains(r.log.String(), "broken") {
			t.Errorf("%s: holds %q\n%s", name, holds, &r.log)
		}
	}
}

// A notice does not take the room of the message it is about.
func TestNoticeHasNoRoom(t *testing.T) {
	for name, limit := range map[string]mailbox.Limit{"messages": {Messages: 1}, "bytes": {Bytes: int64(len(letter)) + 100}} {
		r := newRig(t, `nonsense;`)
		r.SetLimit(ann, limit)
		r.deliver(r.incoming(letter))
		if got := r.texts("INBOX"); len(got) != 1 {
			t.Errorf("%s: %q", name, got)
		}
		r.SetLimit(ann, mailbox.Limit{})
		r.deliver(r.incoming(letter))
		if got := r.texts("INBOX"); len(got) != 3 {
			t.Errorf("%s: told later: %q", name, got)
		}
	}
}

// errDisk is a store that does not work.
var errDisk = errors.New("the disk does not answer")

// What is no script's fault is temporary: nothing is delivered, nobody is told.
func TestTroubleIsTemporary(t *testing.T) {
	const asks = `require ["vacation", "mailbox", "special-use", "duplicate", "include", "fileinto"]; `
	for name, script := range map[string]string{
		"memories": asks + `vacation "gone";`, "folders": asks + `if mailboxexists "x" { stop; }`, "special use": asks + `fileinto :specialuse "\\Junk" "x";`,
		"duplicates": asks + `if duplicate { discard; }`,
	} {
		for _, trouble := range []error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed, errDisk} {
			r := newRig(t, script)
			in := r.incoming(letter)
			r.Fail(ann, trouble)
			plan, err := r.run(in)
			if !errors.Is(err, trouble) || len(plan.Places) > 0 || r.log.Len() > 0 {
				t.Errorf("%s, %v: %v, %+v\n%s", name, trouble, err, plan, &r.log)
			}
			r.Fail(ann, nil)
			r.deliver(in)
			if got := r.holds(r.box); got != "INBOX" {
				t.Errorf("%s: again: holds %q", name, got)
			}
		}
	}
}

func TestTroubleWithScripts(t *testing.T) {
	r := newRig(t, `require "include"; include "x";`)
	r.scripts.err = mailbox.ErrFrozen
	if _, err := r.run(r.incoming(letter)); !errors.Is(err, mailbox.ErrFrozen) {
		t.Errorf("active: %v", err)
	}
	folder := t.TempDir() // a folder where a script should be
	r = newRig(t, `require "include"; include :global "x";`, func(o *Options) { o.Global = filepath.Dir(folder) })
	r.scripts.active[ann] = `require "include"; include :global "` + filepath.Base(folder) + `";`
	r.deliver(r.incoming(letter))
	if !strings.Contains(r.log.String(), "script failed") { // <name>.sieve is not there
		t.Errorf("%s", &r.log)
	}
}

func TestStagingFails(t *testing.T) {
	for name, script := range map[string]string{
		"edit": `require "editheader"; addheader "X" "y";`, "vacation": `require "vacation"; vacation "gone";`,
		"redirect": `require "editheader"; addheader "X" "y"; redirect "eve@other.test";`, "notify": `require "enotify"; notify "mailto:p@other.test";`,
	} {
		r := newRig(t, script)
		in := r.incoming(letter)
		r.fail = errDisk
		if _, err := r.run(in); !errors.Is(err, errDisk) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRig(t, `nonsense;`)
	in := r.incoming(letter)
	r.fail = errDisk
	r.deliver(in) // the notice can wait
	if got := r.holds(r.box); got != "INBOX" {
		t.Errorf("holds %q", got)
	}
}

func TestCancelled(t *testing.T) {
	r := newRig(t, `keep;`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	plan, err := r.filter.Run(ctx, r.incoming(letter))
	plan.Discard()
	if !errors.Is(err, context.Canceled) || len(plan.Places) > 0 {
		t.Errorf("%v, %+v", err, plan)
	}
}

// unreadable is a message that cannot be opened.
type unreadable struct{ mailbox.Staged }

func (unreadable) Open() (mailbox.Body, error) { return nil, errDisk }

func TestUnreadableMessage(t *testing.T) {
	r := newRig(t, `keep;`)
	in := r.incoming(letter)
	in.Message = unreadable{in.Message}
	if _, err := r.run(in); !errors.Is(err, errDisk) {
		t.Error(err)
	}
	r = newRig(t, "")
	r.account.Forward = []string{"eve@other.test"}
	in = r.incoming(letter)
	in.Message = unreadable{in.Message}
	if _, err := r.run(in); !errors.Is(err, errDisk) {
		t.Error(err)
	}
}

// FuzzMessage runs scripts of all kinds on any message: no panic, no message lost,
// nothing left staged.
func FuzzMessage(f *testing.F) {
	f.Add(letter, `keep;`)
	f.Add("", `require ["editheader", "fileinto", "mailbox"]; addheader :last "X" "y"; fileinto :create "z";`)
	f.Add("X-Waypost-Loop: x", `require "editheader"; deleteheader "X-Waypost-Loop"; redirect "a@b.test";`)
	f.Add(letter, `require "vacation"; vacation :mime "x";`)
	f.Fuzz(func(t *testing.T, text, script string) {
		r := newRig(t, script)
		in := r.incoming(text)
		in.Accepted = true
		plan := r.deliver(in)
		if plan.Reject != "" {
			t.Error("rejected what was accepted")
		}
	})
}

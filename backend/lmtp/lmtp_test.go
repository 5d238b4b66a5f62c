package lmtp

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

type users = map[director.User]error

func TestTranscripts(t *testing.T) {
	const ann = `ann@example.test "" id-1 false: ` + trace
	tests := []struct {
		name   string
		store  *fakeStore
		script string
		want   []string
	}{
		{"one message", &fakeStore{}, envelope + `
			C: DATA
			S: 354 go on
			C: Subject: x
			C:
			C: ..dot
			C: .
			S: 250 2.0.0 delivered
			C: QUIT
			S: 221 2.0.0 bye
			EOF`, []string{ann + "Subject: x\n\n.dot\n"}},
		{"empty message", &fakeStore{}, envelope + `
			C: DATA
			C: .
			S: 354 go on
			S: 250 2.0.0 delivered`, []string{ann}},
		{"all pipelined, two messages", &fakeStore{}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: x
			C: .
			C: MAIL FROM:<> XDELIVERY=id-2
			C: RCPT TO:<ANN+Lists/Go@Example.Test> XHOME=b1 XEPOCH=7 XACCEPTED=1
			C: BDAT 2
			C"y\r"
			C: BDAT 1 LAST
			C"\n"
			C: QUIT
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 250 2.0.0 chunk taken
			S: 250 2.0.0 delivered
			S: 221 2.0.0 bye
			EOF`, []string{ann + "x\n", `ann@example.test "Lists/Go" id-2 true: ` +
			strings.NewReplacer("a@out.test", "", "id-1", "id-2").Replace(trace) + "y\n"}},
		{"refusals at RCPT", &fakeStore{
			openErr: users{"stale@x.test": mailbox.ErrStale, "frozen@x.test": mailbox.ErrFrozen,
				"refused@x.test": mailbox.ErrRefused, "broken@x.test": errDisk},
			fitsErr: users{"full@x.test": mailbox.ErrOverQuota},
		}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<stale@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<frozen@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<refused@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<broken@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<full@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<off@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<off@x.test>
			C: RCPT TO:<ann@x.test>
			C: RCPT TO:<ann@x.test> XHOME=b1
			C: RCPT TO:<ann@x.test> XHOME=b1 XEPOCH=6
			C: RCPT TO:<ann@x.test> XHOME=B! XEPOCH=6
			C: RCPT TO:<ann@x.test> XHOME=b1 XEPOCH=-6
			C: RCPT TO:<ann@x.test> XHOME=b1 XEPOCH=7 XACCEPTED=2
			C: RCPT TO:<ann@x.test> NOTIFY=NEVER
			C: RCPT TO:<ann@x.test> XHOME=b1 XHOME=b1
			C: RCPT TO:<ann>
			C: RCPT TO:<>
			C: RCPT TO:ann@x.test
			C: RCPT <ann@x.test>
			C: DATA
			C: BDAT 3 LAST
			C"xxx"
			S: 250 2.1.0 OK
			S: 451 4.3.0 [STALE] look the user up again
			S: 450 4.2.1 [BUSY] the user is being moved
			S: 451 4.3.0 [REFUSED] not now
			S: 451 4.3.0 local error, try again later
			S: 552 5.2.2 mailbox full
			S: 550 5.2.1 mailbox disabled
			S: 451 4.3.0 [STALE] home and epoch are missing
			S: 451 4.3.0 [STALE] home and epoch are missing
			S: 451 4.3.0 [STALE] home and epoch are missing
			S: 451 4.3.0 [STALE] look the user up again
			S: 501 5.5.4 bad value of XHOME
			S: 501 5.5.4 bad value of XEPOCH
			S: 501 5.5.4 bad value of XACCEPTED
			S: 555 5.5.4 unknown parameter
			S: 501 5.5.4 malformed parameters
			S: 553 5.1.3 not a mailbox address
			S: 553 5.1.3 not a mailbox address
			S: 553 5.1.3 not a mailbox address
			S: 501 5.5.4 RCPT TO:<address>
			S: 503 5.5.1 no valid recipients
			S: 503 5.5.1 no valid recipients`, nil},
		{"quota by SIZE, and what an mx accepted", &fakeStore{fitsErr: users{"full@x.test": mailbox.ErrOverQuota}}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<full@x.test> XHOME=b1 XEPOCH=7 XACCEPTED=0
			C: RCPT TO:<full@x.test> XHOME=b1 XEPOCH=7 XACCEPTED=1
			C: RCPT TO:<off@x.test> XHOME=b1 XEPOCH=7 XACCEPTED=1
			C: DATA
			C: x
			C: .
			S: 250 2.1.0 OK
			S: 552 5.2.2 mailbox full
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered
			S: 250 2.0.0 delivered`, []string{
			`full@x.test "" id-1 true: ` + trace + "x\n", `off@x.test "" id-1 true: ` + trace + "x\n"}},
		{"failures at the commit, in order", &fakeStore{commitErr: users{
			"a@x.test": mailbox.ErrStale, "b@x.test": mailbox.ErrFrozen, "c@x.test": mailbox.ErrOverQuota,
			"d@x.test": mailbox.ErrNoSpace, "e@x.test": errDisk, "g@x.test": mailbox.ErrRefused}}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<a@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<b@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<c@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<d@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<e@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<f@x.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<g@x.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: x
			C: .
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 250 2.1.5 OK
			S: 354 go on
			S: 451 4.3.0 [STALE] look the user up again
			S: 450 4.2.1 [BUSY] the user is being moved
			S: 552 5.2.2 mailbox full
			S: 452 4.3.1 insufficient system storage
			S: 451 4.3.0 local error, try again later
			S: 250 2.0.0 delivered
			S: 451 4.3.0 [REFUSED] not now`, []string{`f@x.test "" id-1 false: ` + trace + "x\n"}},
		{"a user twice is one copy and two replies", &fakeStore{}, envelope + `
			C: RCPT TO:<ann+work@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: x
			C: .
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered
			S: 250 2.0.0 delivered`, []string{ann + "x\n"}},
		{"a folder that cannot be", &fakeStore{badFolder: "../x"}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<ann+../x@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: x
			C: .
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered`, []string{ann + "x\n"}},
		{"quoted local part", &fakeStore{}, hello + `
			C: MAIL FROM:<a@out.test> XDELIVERY=id-1
			C: RCPT TO:<"ann"@example.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<"a b"@example.test> XHOME=b1 XEPOCH=7
			C: RCPT TO:<@r1.test,@r2.test:"a\nn"@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: .
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 553 5.1.3 not a mailbox address
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered
			S: 250 2.0.0 delivered`, []string{ann}},
		{"bare LF, and what follows the dot is read as commands again", &fakeStore{}, envelope + `
			C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C"x\n.\r\nMAIL FROM:<evil@x.test>\r\n.\n"
			C: more
			C: .
			C: NOOP
			S: 250 2.1.5 OK
			S: 354 go on
			S: 554 5.6.0 bare CR or LF in the message
			S: 554 5.6.0 bare CR or LF in the message
			S: 250 2.0.0 OK`, nil},
		{"bare CR", &fakeStore{}, envelope + `
			C: DATA
			C"x\ry\r\n.\r\n"
			S: 354 go on
			S: 554 5.6.0 bare CR or LF in the message`, nil},
		{"too large by SIZE", &fakeStore{}, hello + `
			C: MAIL FROM:<a@out.test> SIZE=4001 XDELIVERY=id-1
			S: 552 5.3.4 message too large
			C: MAIL FROM:<a@out.test> SIZE=99999999999999999999 XDELIVERY=id-1
			S: 552 5.3.4 message too large`, nil},
		{"too large in DATA", &fakeStore{}, envelope + `
			C: DATA
			C: ` + strings.Repeat("x", 4100) + `
			C: .
			C: NOOP
			S: 354 go on
			S: 552 5.3.4 message too large
			S: 250 2.0.0 OK`, nil},
		{"the disk is full", &fakeStore{stageErr: mailbox.ErrNoSpace, stageCut: 3}, envelope + `
			C: DATA
			C: a message
			C: .
			C: NOOP
			S: 354 go on
			S: 452 4.3.1 insufficient system storage
			S: 250 2.0.0 OK`, nil},
		{"the disk is broken", &fakeStore{stageErr: errDisk}, envelope + `
			C: DATA
			C: a message
			C: .
			S: 354 go on
			S: 451 4.3.0 local error, try again later`, nil},
		{"a store that stops early stored nothing", &fakeStore{early: true}, envelope + `
			C: DATA
			C: a message
			C: .
			S: 354 go on
			S: 451 4.3.0 local error, try again later`, nil},
		{"BDAT fails on the way", &fakeStore{stageErr: mailbox.ErrNoSpace, stageCut: 31}, envelope + `
			C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
			C: BDAT 30
			C"Subject: thirty bytes of it!\r\n"
			C: BDAT 6
			C"RSET\r\n"
			C: RCPT TO:<eve@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: BDAT 6
			C"QUIT\r\n"
			C: BDAT 6 LAST
			C"QUIT\r\n"
			C: NOOP
			S: 250 2.1.5 OK
			S: 250 2.0.0 chunk taken
			S: 452 4.3.1 insufficient system storage
			S: 503 5.5.1 MAIL first
			S: 503 5.5.1 bad sequence of commands
			S: 452 4.3.1 insufficient system storage
			S: 452 4.3.1 insufficient system storage
			S: 452 4.3.1 insufficient system storage
			S: 250 2.0.0 OK`, nil},
		{"BDAT fails, RSET", &fakeStore{stageErr: mailbox.ErrNoSpace}, envelope + `
			C: BDAT 2
			C"ab"
			C: RSET
			C: MAIL FROM:<> XDELIVERY=2
			S: 452 4.3.1 insufficient system storage
			S: 250 2.0.0 OK
			S: 250 2.1.0 OK`, nil},
		{"BDAT, bare LF over a chunk border", &fakeStore{}, envelope + `
			C: BDAT 2
			C"a\r"
			C: BDAT 2 LAST
			C"b\n"
			S: 250 2.0.0 chunk taken
			S: 554 5.6.0 bare CR or LF in the message`, nil},
		{"BDAT ends in a CR", &fakeStore{}, envelope + `
			C: BDAT 2 LAST
			C"a\r"
			S: 554 5.6.0 bare CR or LF in the message`, nil},
		{"BDAT, dots are not special, an empty last chunk", &fakeStore{}, envelope + `
			C: BDAT 10
			C"..a\r\n.\r\nb\r"
			C: NOOP
			C: BDAT 1
			C"\n"
			C: MAIL FROM:<>
			C: bdat 0 last
			S: 250 2.0.0 chunk taken
			S: 250 2.0.0 OK
			S: 250 2.0.0 chunk taken
			S: 503 5.5.1 bad sequence of commands
			S: 250 2.0.0 delivered`, []string{ann + "..a\n.\nb\n"}},
		{"BDAT, then RSET", &fakeStore{}, envelope + `
			C: BDAT 1
			C"a"
			C: RSET
			C: DATA
			S: 250 2.0.0 chunk taken
			S: 250 2.0.0 OK
			S: 503 5.5.1 MAIL first`, nil},
		{"BDAT, then QUIT", &fakeStore{}, envelope + `
			C: BDAT 1
			C"a"
			C: QUIT
			S: 250 2.0.0 chunk taken
			S: 221 2.0.0 bye
			EOF`, nil},
		{"BDAT with a size that cannot be read", &fakeStore{}, envelope + `
			C: BDAT 99999999999999999999 LAST
			S: 501 5.5.4 BDAT size [LAST]
			EOF`, nil},
		{"a later BDAT that cannot be read", &fakeStore{}, envelope + `
			C: BDAT 1
			C"a"
			C: BDAT x
			S: 250 2.0.0 chunk taken
			S: 501 5.5.4 BDAT size [LAST]
			EOF`, nil},
		{"sequence and syntax", &fakeStore{}, `
			S: 220 b1.test LMTP Waypost
			C: MAIL FROM:<a@out.test> XDELIVERY=1
			S: 503 5.5.1 bad sequence of commands
			C: LHLO
			S: 501 5.5.4 LHLO name
			C: EHLO x
			S: 500 5.5.1 command not recognised
			C: HELO x
			S: 500 5.5.1 command not recognised
			C"NOOP\n"
			S: 500 5.5.1 command not recognised
			C"NO\rOP\r\n"
			S: 500 5.5.1 command not recognised
			C: NOOP anything
			S: 250 2.0.0 OK
			C: VRFY ann
			S: 252 2.1.5 send mail to find out
			C: help
			S: 214 2.0.0 LHLO ...
			C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
			S: 503 5.5.1 MAIL first
			C: DATA
			S: 503 5.5.1 MAIL first
			` + strings.TrimPrefix(strings.TrimSpace(hello), "S: 220 b1.test LMTP Waypost\n") + `
			C: MAIL TO:<a@out.test>
			S: 501 5.5.4 MAIL FROM:<address>
			C: MAIL FROM:a@out.test
			S: 501 5.1.7 malformed sender
			C: MAIL FROM:<a@out.test
			S: 501 5.1.7 malformed sender
			C: MAIL FROM:<a@out.test>XDELIVERY=1
			S: 501 5.1.7 malformed sender
			C: MAIL FROM:<a@out.test>
			S: 451 4.3.0 [REFUSED] the delivery id is missing
			C: MAIL FROM:<a@out.test> XDELIVERY=a;b
			S: 501 5.5.4 bad value of XDELIVERY
			C: MAIL FROM:<a@out.test> BODY=BINARYMIME
			S: 501 5.5.4 bad value of BODY
			C: MAIL FROM:<a@out.test> SIZE=x
			S: 501 5.5.4 bad value of SIZE
			C: MAIL FROM:<a@out.test> RET=HDRS
			S: 555 5.5.4 unknown parameter
			C: MAIL FROM:<a@out.test> SIZE=1 SIZE=2
			S: 501 5.5.4 malformed parameters
			C: MAIL FROM:<ä@out.test> XDELIVERY=1
			S: 553 5.6.7 the sender needs SMTPUTF8
			C: mail from: <ä@out.test> smtputf8 XDELIVERY=id-1 BODY=7bit
			S: 250 2.1.0 OK
			C: MAIL FROM:<> XDELIVERY=2
			S: 503 5.5.1 bad sequence of commands
			C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
			S: 250 2.1.5 OK
			C: DATA now
			S: 501 5.5.4 DATA takes no arguments
			C: RSET
			S: 250 2.0.0 OK
			C: DATA
			S: 503 5.5.1 MAIL first`, nil},
		{"SMTPUTF8", &fakeStore{}, hello + `
			C: MAIL FROM:<ä@out.test> SMTPUTF8 XDELIVERY=id-1
			C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
			C: DATA
			C: x
			C: .
			S: 250 2.1.0 OK
			S: 250 2.1.5 OK
			S: 354 go on
			S: 250 2.0.0 delivered`, []string{`ann@example.test "" id-1 false: ` +
			strings.NewReplacer("a@out", "ä@out", "LMTP id", "UTF8LMTP id").Replace(trace) + "x\n"}},
		{"one Return-Path, ours", &fakeStore{}, envelope + `
			C: DATA
			C: Received: from x
			C:  by y
			C: RETURN-PATH:
			C:  <forged@out.test>
			C: Return-Path: <other@out.test>
			C: Received: from z
			C: Subject: x
			C: Return-Path: <in the message>
			C:
			C: Return-Path: <in the text>
			C: .
			S: 354 go on
			S: 250 2.0.0 delivered`, []string{ann + "Received: from x\n by y\nReceived: from z\nSubject: x\n" +
			"Return-Path: <in the message>\n\nReturn-Path: <in the text>\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := options(tt.store)
			opt.Accounts = func(u director.User) (disabled, known bool) { return u == "off@x.test", u != "new@x.test" }
			d := serve(t, opt)
			d.play(tt.script)
			d.conn.Close()
			d.served.Wait()
			f := tt.store
			if f.open != 0 {
				t.Errorf("%d boxes left open", f.open)
			}
			if f.discarded < f.staged {
				t.Errorf("%d staged, %d discarded", f.staged, f.discarded)
			}
			if !slices.Equal(f.delivered, tt.want) {
				t.Errorf("delivered\n%q, want\n%q", f.delivered, tt.want)
			}
		})
	}
}

func TestConnectionLostDeliversNothing(t *testing.T) {
	for _, tail := range []string{
		"DATA\r\nSubject: x\r\n\r\nhalf a mess", "DATA\r\nx\r\n.", "DATA\r\nx\r\n.\r", "DATA\r\n",
		"BDAT 10 LAST\r\nabc", "BDAT 3\r\nabc", "BDAT 3\r\nabcBDAT 5 LA",
	} {
		f := &fakeStore{}
		d := serve(t, options(f))
		d.play(envelope)
		d.send(tail)
		d.conn.Close()
		d.served.Wait()
		if len(f.delivered) > 0 || f.open > 0 || f.discarded < f.staged {
			t.Errorf("%q: delivered %q, open %d, staged %d, discarded %d", tail, f.delivered, f.open, f.staged, f.discarded)
		}
	}
}

// TestTimeoutInBody: after a time-out the rest of a body must not run as
// commands, so the connection ends.
func TestTimeouts(t *testing.T) {
	for _, last := range []string{"DATA\r\nhalf", "BDAT 100 LAST\r\nhalf", "BDAT 1\r\nx", "NOO"} {
		f := &fakeStore{}
		opt := options(f)
		opt.Limits = Limits{Command: 50 * time.Millisecond, Data: 50 * time.Millisecond}
		d := serve(t, opt)
		d.send("LHLO x\r\nMAIL FROM:<> XDELIVERY=1\r\nRCPT TO:<a@x.test> XHOME=b1 XEPOCH=7\r\n" + last)
		all, _ := io.ReadAll(d.br)
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
		d.play(hello)
		close(drain)
		d.play("S: 421 4.3.2 b1.test is shutting down\nEOF")
	})
	t.Run("a running transaction is finished", func(t *testing.T) {
		drain := make(chan struct{})
		f := &fakeStore{}
		opt := options(f)
		opt.Draining = drain
		d := serve(t, opt)
		d.play(envelope + "C: DATA\nS: 354 go on\n")
		close(drain)
		d.play("C: x\nC: .\nS: 250 2.0.0 delivered\nS: 421 4.3.2 b1.test is shutting down\nEOF")
		if len(f.delivered) != 1 {
			t.Error(f.delivered)
		}
	})
	t.Run("at once", func(t *testing.T) {
		f := &fakeStore{}
		d := serve(t, options(f))
		d.play(envelope + "C: DATA\nS: 354 go on\nC: x\n")
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
	d.play(envelope + `
		C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
		C: DATA
		C: x
		S: 250 2.1.5 OK
		S: 354 go on`)
	store.Freeze("ann@example.test")
	d.play(`
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
	d.play(envelope + `
		C: RCPT TO:<bob@example.test> XHOME=b1 XEPOCH=7
		C: RCPT TO:<eve@example.test> XHOME=b1 XEPOCH=7
		S: 250 2.1.5 OK
		S: 452 4.5.3 too many recipients
		C: NOOP ` + strings.Repeat("x", 200) + `
		S: 500 5.5.2 line too long
		EOF`)

	// Without an end of line the reader's buffer is the limit.
	d = serve(t, options(&fakeStore{}))
	d.play("S: 220 b1.test LMTP Waypost")
	go d.conn.Write(bytes.Repeat([]byte{'x'}, readBuffer+1))
	d.play("S: 500 5.5.2 line too long")

	d = serve(t, options(&fakeStore{}))
	d.send(strings.Repeat("X\r\n", maxBadCommands+1))
	all, _ := io.ReadAll(d.br)
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
	d.play(envelope + `
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

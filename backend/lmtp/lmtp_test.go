package lmtp

import (
	"slices"
	"strings"
	"testing"

	"waypost/backend/mailbox"
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
			d.Play(tt.script)
			d.Conn.Close()
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

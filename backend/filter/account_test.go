package filter

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waypost/director"
)

func TestAccountRules(t *testing.T) {
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	always := func(a director.AutoReply) *director.AutoReply {
		a.Kind, a.Text = director.ReplyAlways, "gone"
		return &a
	}
	to := func(addresses ...string) director.Account { return director.Account{Forward: addresses} }
	only := func(addresses ...string) director.Account {
		return director.Account{Forward: addresses, ForwardOnly: true}
	}
	const forwarded = "redirect <bob@far.test> eve@other.test ed@other.test"
	for name, c := range map[string]struct {
		account      director.Account
		script, text string
		from         string
		holds, sent  string
	}{
		"forward":                {account: to("eve@other.test", "ed@other.test"), holds: "INBOX", sent: forwarded},
		"forward only":           {account: only("eve@other.test", "ed@other.test"), sent: forwarded},
		"forward null":           {account: to("eve@other.test"), from: "<>", holds: "INBOX", sent: "redirect <> eve@other.test"},
		"forwarded before":       {account: only("eve@other.test"), text: "X-Waypost-Loop: ann@example.test\n" + letter, holds: "INBOX"},
		"forward to oneself":     {account: only("Ann+x@example.test"), holds: "INBOX"},
		"and to another":         {account: only("ann@example.test", "eve@other.test"), sent: "redirect <bob@far.test> eve@other.test"},
		"what a script discards": {account: to("eve@other.test"), script: `discard;`},
		"what a script files":    {account: to("eve@other.test"), script: `require ["fileinto", "mailbox"]; fileinto :create "Work";`, holds: "Work", sent: "redirect <bob@far.test> eve@other.test"},
		"rejected":               {account: to("eve@other.test"), script: `require "reject"; reject "no";`},

		"reply":                    {account: director.Account{Reply: always(director.AutoReply{})}, holds: "INBOX", sent: "vacation <> bob@far.test"},
		"reply to null":            {account: director.Account{Reply: always(director.AutoReply{})}, from: "<>", holds: "INBOX"},
		"reply to a list":          {account: director.Account{Reply: always(director.AutoReply{})}, text: "Precedence: list\n" + letter, holds: "INBOX"},
		"reply within its time":    {account: director.Account{Reply: always(director.AutoReply{From: past, Until: soon})}, holds: "INBOX", sent: "vacation <> bob@far.test"},
		"reply too early":          {account: director.Account{Reply: always(director.AutoReply{From: soon})}, holds: "INBOX"},
		"reply too late":           {account: director.Account{Reply: always(director.AutoReply{Until: past})}, holds: "INBOX"},
		"reply to what is dropped": {account: director.Account{Reply: always(director.AutoReply{})}, script: `discard;`},
		"reply beside a script's":  {account: director.Account{Reply: always(director.AutoReply{})}, script: `require "vacation"; vacation "x";`, holds: "INBOX", sent: "vacation <> bob@far.test"},
		"reply and forward": {account: director.Account{Forward: []string{"eve@other.test"}, ForwardOnly: true, Reply: always(director.AutoReply{})},
			sent: "redirect <bob@far.test> eve@other.test; vacation <> bob@far.test"},
		"reply that is none": {account: director.Account{Reply: &director.AutoReply{Kind: director.ReplyAlways, Text: "a\x00b"}}, holds: "INBOX"},
		"echo":               {account: director.Account{Reply: &director.AutoReply{Kind: director.ReplyEcho}}, holds: "INBOX", sent: "echo <> bob@far.test"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.script)
			r.account = c.account
			if c.text == "" {
				c.text = letter
			}
			in := r.incoming(c.text)
			if c.from != "" {
				in.From = strings.Trim(c.from, "<>")
			}
			plan := r.deliver(in)
			if plan.Reject != "" {
				return // nothing else counts
			}
			if holds, sent := r.holds(r.box), r.sent(ann); holds != c.holds || sent != c.sent {
				t.Errorf("holds %q, sent %q\n%s", holds, sent, &r.log)
			}
		})
	}
}

func TestReplyText(t *testing.T) {
	r := newRig(t, "")
	r.account.Reply = &director.AutoReply{Kind: director.ReplyAlways, Subject: `I am "out"`, Text: "first\n.second \\ ${x} \"q\"\n"}
	r.deliver(r.incoming(letter))
	text := r.sentText(0)
	for _, want := range []string{
		"Subject: I am \"out\"\r\n", "To: bob@far.test\r\n", "From: ann@example.test\r\n", "In-Reply-To: <1@far.test>\r\n",
		"Auto-Submitted: auto-replied", "\r\n\r\nfirst\r\n.second \\ ${x} \"q\"\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	r.account.Reply = &director.AutoReply{Kind: director.ReplyEcho}
	r.deliver(r.incoming(letter))
	if text := r.sentText(1); !strings.Contains(text, "Subject: Auto: lunch\r\n") || !strings.Contains(text, "\r\n\r\n"+crlf(letter)) {
		t.Errorf("%s", text)
	}
	r.deliver(r.incoming(letter + strings.Repeat("long ", maxEcho)))
	if n := len(r.sentText(2)); n < maxEcho || n > maxEcho*5/4 {
		t.Errorf("an echo of %d bytes", n)
	}
}

func TestReplyRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "")
		for i, step := range []struct {
			wait  time.Duration
			reply director.AutoReply
			want  int
		}{
			{0, director.AutoReply{Kind: director.ReplyVacation, Text: "gone"}, 1},
			{0, director.AutoReply{Kind: director.ReplyVacation, Text: "gone"}, 0},
			{0, director.AutoReply{Kind: director.ReplyVacation, Text: "gone for good"}, 1}, // another reply
			{0, director.AutoReply{Kind: director.ReplyAlways, Text: "gone"}, 1},
			{0, director.AutoReply{Kind: director.ReplyAlways, Text: "gone"}, 1},
			{0, director.AutoReply{Kind: director.ReplyEcho}, 1},
			{0, director.AutoReply{Kind: director.ReplyVacation, Text: "gone"}, 0},
			{8 * 24 * time.Hour, director.AutoReply{Kind: director.ReplyVacation, Text: "gone", Days: 200}, 1}, // 7 days are over
			{150 * 24 * time.Hour, director.AutoReply{Kind: director.ReplyVacation, Text: "gone", Days: 200}, 0},
			{51 * 24 * time.Hour, director.AutoReply{Kind: director.ReplyVacation, Text: "gone", Days: 200}, 1},
		} {
			<-time.After(step.wait)
			r.account.Reply = &step.reply
			before := len(r.Outbound(ann))
			r.deliver(r.incoming(letter))
			if got := len(r.Outbound(ann)) - before; got != step.want {
				t.Errorf("step %d: %d replies, want %d", i, got, step.want)
			}
		}
	})
}

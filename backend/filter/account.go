package filter

import (
	"bytes"
	"crypto/sha256"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/sieve"
	"waypost/backend/sieve/reply"
	"waypost/director"
)

// accountRules adds what the account asks for without a script. Both are for
// messages that the scripts let in: what they discard is neither sent on nor
// answered.
func (r *run) accountRules() error {
	if len(r.plan.Places) == 0 {
		return nil
	}
	if err := r.forward(); err != nil {
		return err
	}
	// One message gets one reply: that of a script comes first.
	if r.account.Reply == nil || r.answered {
		return nil
	}
	return r.autoReply(*r.account.Reply)
}

func (r *run) forward() error {
	to := slices.DeleteFunc(slices.Clone(r.account.Forward), func(to string) bool {
		base, _ := director.SplitSubaddress(to)
		return base == string(r.user) // it is here already
	})
	if len(to) == 0 {
		return nil
	}
	loops, err := r.looped()
	if err != nil {
		return err
	}
	if loops {
		r.o.Log.Info("filter: forwarded before, and kept", "id", r.in.ID, "user", r.user)
		return nil
	}
	r.out("redirect", r.in.From, to, r.in.Message)
	if r.account.ForwardOnly {
		r.plan.Places = nil
	}
	return nil
}

const (
	// maxEcho is how much of a message an echo gives back, in bytes.
	maxEcho = 64 << 10
	// maxReplyDays is what director.AutoReply allows for Days.
	maxReplyDays = 365 * 24 * time.Hour
)

// autoReply answers by the rules of a script's vacation (RFC 5230, Sections 4.5
// to 4.7): it is one. A message is delivered whether or not it can be answered.
func (r *run) autoReply(a director.AutoReply) error {
	now := r.o.Now()
	if !a.From.IsZero() && now.Before(a.From) || !a.Until.IsZero() && !now.Before(a.Until) {
		return nil
	}
	const name = "account reply"
	src := []byte(replyScript(a))
	c := r.cache.compile(name, src, sha256.Sum256(src))
	if c.err != nil {
		r.o.Log.Warn("filter: account reply not usable", "id", r.in.ID, "user", r.user, "error", c.err)
		return nil
	}
	env := r.environment()
	env.VacationMin, env.VacationMax = time.Second, maxReplyDays
	if a.Kind != director.ReplyVacation {
		env.Remembered = nil // each message is answered
	}
	result, err := sieve.Run(r.ctx, []*sieve.Script{c.script}, r.look(), env, r.o.Limits)
	switch {
	case err != nil && (r.trouble != nil || r.ctx.Err() != nil):
		return err
	case err != nil:
		r.o.Log.Warn("filter: account reply failed", "id", r.in.ID, "user", r.user, "error", err)
		return nil
	}
	for _, action := range result.Actions {
		if v, is := action.(*sieve.Vacation); is {
			if err := r.answer(a.Kind, v); err != nil {
				return err
			}
		}
	}
	if a.Kind != director.ReplyVacation {
		return nil // nothing to remember
	}
	for _, m := range result.Memories {
		r.plan.Memories = append(r.plan.Memories, mailbox.Memory(m))
	}
	return nil
}

func (r *run) answer(replyKind string, v *sieve.Vacation) (err error) {
	kind := "vacation"
	if replyKind == director.ReplyEcho {
		kind = "echo"
		if v.Reason, err = r.echo(); err != nil {
			return err
		}
	}
	text, err := reply.BuildVacation(v, r.meta())
	return r.send(kind, "", []string{v.To}, text, err)
}

// replyScript says a reply in Sieve. It has no :handle, so that another text is
// another reply, told to those who had the former one as well (RFC 5230, Section
// 4.2).
func replyScript(a director.AutoReply) string {
	var b strings.Builder
	b.WriteString(`require ["vacation", "vacation-seconds"]; vacation `)
	switch {
	case a.Kind != director.ReplyVacation:
		b.WriteString(":seconds 0 ")
	case a.Days > 0:
		b.WriteString(":days " + strconv.Itoa(a.Days) + " ")
	}
	if a.Subject != "" {
		b.WriteString(":subject " + quoted(a.Subject) + " ")
	}
	text := a.Text
	if a.Kind == director.ReplyEcho {
		text = "echo"
	}
	b.WriteString(quoted(text) + ";")
	return b.String()
}

// quoted is a Sieve string (RFC 5228, Section 2.4.2).
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// echo is the message as a text to be sent back.
func (r *run) echo() (string, error) {
	body, err := r.in.Message.Open()
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxEcho))
	if err != nil {
		return "", err
	}
	return string(bytes.ToValidUTF8(text, []byte("?"))), nil
}

package filter

import (
	"bytes"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/sieve"
	"waypost/backend/sieve/reply"
)

// LoopHeader marks a redirect with its user; the mx writes it.
const LoopHeader = "X-Waypost-Loop"

func (r *run) open() (io.ReadSeekCloser, error) { return r.in.Message.Open() }

// do adds one action to the plan.
func (r *run) do(a sieve.Action) error {
	switch a := a.(type) {
	case *sieve.Keep:
		return r.keep(a.Flags, a.Header)
	case *sieve.FileInto:
		return r.file(mailbox.Place{Folder: r.o.Naming.In(a.Folder), Create: a.Create, Use: a.SpecialUse, Flags: flagsOf(a.Flags)}, a.Header)
	case *sieve.Redirect:
		return r.redirect(a.Address, a.Header)
	case *sieve.Reject:
		r.reject(a.Reason)
		return nil
	case *sieve.Vacation:
		r.answered = true
		text, err := reply.BuildVacation(a, r.meta())
		return r.send("vacation", "", []string{a.To}, text, err)
	case *sieve.Notify:
		return r.notify(a)
	case *sieve.Discard:
		return nil
	}
	return fmt.Errorf("action %T is not known here", a)
}

func (r *run) meta() reply.Meta {
	return reply.Meta{Now: r.o.Now(), Domain: r.o.Hostname}
}

// keep files the message where it was addressed to: INBOX, or the folder of the
// subaddress.
func (r *run) keep(flags []string, h *sieve.Header) error {
	return r.file(mailbox.Place{Folder: r.o.Naming.In(r.in.Folder), Flags: flagsOf(flags)}, h)
}

// file adds a place. A folder gets a message once (RFC 5228, Section 2.10.3): what
// is asked for it later counts.
func (r *run) file(p mailbox.Place, h *sieve.Header) (err error) {
	if strings.EqualFold(p.Folder, mailbox.Inbox) {
		p.Folder = ""
	}
	if p.Message, err = r.edit(h); err != nil {
		return err
	}
	for i, q := range r.plan.Places {
		if q.Folder == p.Folder {
			p.Create = p.Create || q.Create
			r.plan.Places[i] = p
			return nil
		}
	}
	r.plan.Places = append(r.plan.Places, p)
	return nil
}

// edit gives the message with another header; nil for the message as it came.
func (r *run) edit(h *sieve.Header) (mailbox.Staged, error) {
	if h == nil {
		return nil, nil
	}
	if m := r.edited[h]; m != nil {
		return m, nil
	}
	marks, err := r.lostMarks(h)
	if err != nil {
		return nil, err
	}
	body, err := r.in.Message.Open()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if _, err := body.Seek(h.Length(), io.SeekStart); err != nil {
		return nil, err
	}
	m, err := r.stage(io.MultiReader(bytes.NewReader(marks), bytes.NewReader(h.Bytes()), body))
	if err != nil {
		return nil, err
	}
	if r.edited == nil {
		r.edited = map[*sieve.Header]mailbox.Staged{}
	}
	r.edited[h] = m
	return m, nil
}

// lostMarks are the loop marks that a script has taken out. They stay: users who
// redirect to each other without them would multiply a message for as long as
// it has less than the utmost of Received lines.
func (r *run) lostMarks(h *sieve.Header) ([]byte, error) {
	marks, err := r.marks()
	if err != nil {
		return nil, err
	}
	var lost []byte
	for _, m := range marks {
		if !slices.ContainsFunc(h.Fields(), func(f sieve.Field) bool { return bytes.Equal(f.Raw, m.Raw) }) {
			lost = append(lost, bytes.TrimRight(m.Raw, "\r\n")...)
			lost = append(lost, "\r\n"...)
		}
	}
	return lost, nil
}

// marks are the loop marks of the message as it came.
func (r *run) marks() (list []sieve.Field, err error) {
	h, err := r.look().Header()
	if err != nil {
		return nil, err
	}
	for _, f := range h.Fields() {
		if strings.EqualFold(f.Name, LoopHeader) {
			list = append(list, f)
		}
	}
	return list, nil
}

// looped tells whether this user has redirected the message before.
func (r *run) looped() (bool, error) {
	marks, err := r.marks()
	return slices.ContainsFunc(marks, func(f sieve.Field) bool {
		return strings.EqualFold(strings.TrimSpace(f.Value), string(r.user))
	}), err
}

// stage takes in a message of CRLF lines that lives as long as the run.
func (r *run) stage(text io.Reader) (mailbox.Staged, error) {
	m, err := r.o.Stage.Stage(r.ctx, "", text, 0)
	if err == nil {
		r.staged = append(r.staged, m)
	}
	return m, err
}

func (r *run) redirect(to string, h *sieve.Header) error {
	loops, err := r.looped()
	if err != nil {
		return err
	}
	if loops {
		r.o.Log.Info("filter: redirected before, and kept", "id", r.in.ID, "user", r.user)
		r.mustKeep = true
		return nil
	}
	m, err := r.edit(h)
	if err != nil {
		return err
	}
	if m == nil {
		m = r.in.Message
	}
	r.out("redirect", r.in.From, []string{to}, m)
	return nil
}

func (r *run) notify(a *sieve.Notify) error {
	from := ""
	if !a.NullSender {
		from = a.Owner
		if p, err := mail.ParseAddress(a.From); err == nil {
			from = p.Address
		}
	}
	text, err := reply.BuildNotify(a, r.meta())
	return r.send("notify", from, a.To, text, err)
}

// send plans a message that was made here.
func (r *run) send(kind, from string, to []string, text []byte, err error) error {
	if err != nil {
		// Nothing that can be built of what the script has said: the message
		// itself is not to suffer for it.
		r.o.Log.Warn("filter: reply not made", "id", r.in.ID, "user", r.user, "kind", kind, "error", err)
		return nil
	}
	m, err := r.stage(bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.out(kind, from, to, m)
	return nil
}

// reject refuses the message, if that can still be said to who sends it.
func (r *run) reject(reason string) {
	if r.in.Accepted {
		r.o.Log.Info("filter: rejected too late, and kept", "id", r.in.ID, "user", r.user)
		r.mustKeep = true
		return
	}
	if r.plan.Reject = reason; strings.TrimSpace(reason) == "" {
		r.plan.Reject = "the recipient refuses this message"
	}
}

// noticeEvery is how often a user is told that a script fails.
const noticeEvery = 24 * time.Hour

// failed notes that the user's script could not be run, and tells the user, if
// there is room for it beside the message.
func (r *run) failed(why error) {
	r.o.Log.Warn("filter: script failed; the message is kept", "id", r.in.ID, "user", r.user, "error", why)
	const key = "script-failed"
	told, err := r.remembered(r.ctx, key)
	if err != nil || told {
		return
	}
	text, err := reply.BuildNotify(&sieve.Notify{
		From: "Mail filter <postmaster@" + r.user.Domain() + ">", To: []string{string(r.user)}, HeaderTo: []string{string(r.user)},
		Importance: '2', Subject: "Your mail filter does not work", Owner: string(r.user),
		Body: "Your Sieve script could not be run. No mail is lost: until the script is\nmended, mail that it fails on is kept in your inbox.\n\n    " +
			strings.ReplaceAll(why.Error(), "\n", "\n    ") + "\n\nYou are told once a day.\n",
	}, r.meta())
	if err != nil {
		r.o.Log.Error("filter: user not told", "id", r.in.ID, "user", r.user, "error", err)
		return
	}
	m, err := r.stage(bytes.NewReader(text))
	if err != nil {
		r.o.Log.Warn("filter: user not told", "id", r.in.ID, "user", r.user, "error", err)
		return
	}
	if !r.fitsBeside(m) {
		return
	}
	r.notice = &mailbox.Place{Message: m}
	r.plan.Memories = append(r.plan.Memories, mailbox.Memory{Key: key, Until: r.o.Now().Add(noticeEvery)})
}

// fitsBeside tells whether the quota has room for m beside the message.
func (r *run) fitsBeside(m mailbox.Staged) bool {
	if r.in.Accepted {
		return true
	}
	usage, err := r.in.Box.Usage()
	limit := r.in.Box.Limit()
	return err == nil && (limit.Messages == 0 || usage.Messages+2 <= limit.Messages) &&
		r.in.Box.Fits(r.in.Message.Size()+m.Size()) == nil
}

// systemFlags are those of RFC 9051, Section 2.3.2, that a script may set.
var systemFlags = map[string]mailbox.System{
	`\seen`: mailbox.Seen, `\answered`: mailbox.Answered, `\flagged`: mailbox.Flagged, `\deleted`: mailbox.Deleted, `\draft`: mailbox.Draft,
}

func flagsOf(list []string) (f mailbox.Flags) {
	for _, name := range list {
		if s, is := systemFlags[strings.ToLower(name)]; is {
			f.System |= s
		} else if !strings.HasPrefix(name, `\`) {
			f.Keywords = append(f.Keywords, name)
		}
	}
	slices.Sort(f.Keywords)
	f.Keywords = slices.Compact(f.Keywords)
	return f
}

// bare takes the quotes off a local part: scripts write addresses as a header
// does, and envelopes have what they mean (RFC 5321, Section 4.1.2).
func bare(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 2 || address[0] != '"' || address[at-1] != '"' {
		return address
	}
	var b strings.Builder
	escaped := false
	for _, c := range []byte(address[1 : at-1]) {
		if escaped = c == '\\' && !escaped; !escaped {
			b.WriteByte(c)
		}
	}
	return b.String() + address[at:]
}

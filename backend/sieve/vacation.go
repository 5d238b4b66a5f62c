package sieve

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// vacationOp is "vacation" (RFC 5230; RFC 6131).
type vacationOp struct {
	every                 time.Duration // -1 for the default
	subject, from, handle *text
	addresses             texts
	mime                  bool
	reason                text
	// written is the reply as the script has it, before its variables are put
	// in: it tells replies apart (RFC 5230, Section 4.2).
	written []string
}

func compileVacation(c *compiler, b *call) (op, *Error) {
	o := &vacationOp{every: -1, mime: b.tagged("mime")}
	unit, err := b.oneOf("days", "seconds")
	if err != nil {
		return nil, err
	}
	switch unit {
	case "days":
		o.every = seconds(b.tags["days"][0].number, day, 10_000*day)
	case "seconds":
		o.every = seconds(b.tags["seconds"][0].number, time.Second, 10_000*day)
	}
	for _, s := range []struct {
		tag string
		to  **text
	}{{"subject", &o.subject}, {"from", &o.from}, {"handle", &o.handle}} {
		if *s.to, err = c.optionalString(b, s.tag); err != nil {
			return nil, err
		}
	}
	if b.tagged("addresses") {
		if o.addresses, err = c.strings(b.tags["addresses"][0]); err != nil {
			return nil, err
		}
	}
	if o.reason, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	o.written = []string{b.pos[0].text, fmt.Sprint(o.mime)}
	for _, tag := range []string{"subject", "from"} {
		if b.tagged(tag) {
			o.written = append(o.written, tag, b.tags[tag][0].text)
		}
	}
	return o, o.check(b)
}

// check finds at once what is wrong with constant arguments.
func (o *vacationOp) check(b *call) *Error {
	if o.from != nil && o.from.isConstant() {
		if _, ok := parseAddress(o.from.constant); !ok {
			return b.tags["from"][0].fault("%q is no address for :from", o.from.constant)
		}
	}
	if o.mime && o.reason.isConstant() {
		if err := checkEntity(o.reason.constant); err != nil {
			return b.pos[0].fault("%v", err)
		}
	}
	return nil
}

// checkEntity refuses a MIME entity whose header is no header: fields only,
// ASCII (RFC 5230, Section 5), and nothing that belongs to the whole message.
func checkEntity(entity string) error {
	h, err := ReadHeader(strings.NewReader(entity))
	if err != nil {
		return err
	}
	for _, f := range h.Fields() {
		if f.Name == "" || !strings.HasPrefix(lower(f.Name), "content-") && !equalFold(f.Name, "MIME-Version") {
			return fmt.Errorf("a :mime reply begins with MIME header fields and an empty line; %q is none", cut(string(f.Raw), 60))
		}
		if slices.ContainsFunc(f.Raw, func(c byte) bool { return c >= utf8.RuneSelf || c == 0 }) {
			return fmt.Errorf("the header field %s of a :mime reply is not ASCII", f.Name)
		}
	}
	return nil
}

func (o *vacationOp) do(m *machine) error {
	if err := m.conflict(false, "vacation"); err != nil {
		return err
	}
	if m.vacations++; m.vacations > 1 {
		return fmt.Errorf("vacation is done a second time; one message gets one reply")
	}
	// Of several scripts of a sequence the first that answers is enough.
	answered := slices.ContainsFunc(m.actions, func(a Action) bool { _, ok := a.(*Vacation); return ok })
	mine, ok, err := o.wanted(m)
	if err != nil || !ok || answered {
		return err
	}
	handle, err := valueOf(m, o.handle, "")
	if err != nil {
		return err
	}
	parts := append([]string{"handle", handle}, lower(m.env.From))
	if o.handle == nil {
		parts = append(slices.Clone(o.written), lower(m.env.From))
	}
	key := memoryKey("vacation", parts...)
	if seen, err := m.remembered(key); seen || err != nil {
		return err
	}
	reply, err := o.reply(m, mine, handle)
	if err != nil {
		return err
	}
	every := o.every
	if every < 0 {
		every = m.env.VacationDefault
	}
	if err := m.remember(key, min(max(every, m.env.VacationMin), m.env.VacationMax)); err != nil {
		return err
	}
	return m.act(reply)
}

// reply makes the reply (RFC 5230, Section 5).
func (o *vacationOp) reply(m *machine, mine address, handle string) (*Vacation, error) {
	v := &Vacation{To: quoteAddress(envelopeAddress(m.env.From)), MIME: o.mime, Handle: handle}
	var err error
	if v.Reason, err = o.reason.value(m); err != nil {
		return nil, err
	}
	v.Reason = strings.ToValidUTF8(v.Reason, string(utf8.RuneError))
	if o.mime {
		if err := checkEntity(v.Reason); err != nil {
			return nil, err
		}
	}
	if v.From, err = valueOf(m, o.from, ""); err != nil {
		return nil, err
	}
	if _, ok := parseAddress(v.From); !ok {
		v.From = quoteAddress(mine)
	}
	subject := "Automated reply"
	if s := m.header("subject"); len(s) > 0 && s[0] != "" {
		subject = "Auto: " + s[0]
	}
	if subject, err = valueOf(m, o.subject, subject); err != nil {
		return nil, err
	}
	v.Subject = oneLine(subject)
	v.InReplyTo, v.References = m.thread()
	return v, nil
}

// oneLine makes a string fit for a header field.
func oneLine(s string) string {
	s = strings.ToValidUTF8(cut(s, 998), string(utf8.RuneError))
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

// thread gives what a reply names as its parents (RFC 5322, Section 3.6.4).
func (m *machine) thread() (inReplyTo, references string) {
	id := messageIDs(m.current.first("message-id"))
	if len(id) == 0 {
		return "", ""
	}
	refs := messageIDs(m.current.first("references"))
	if len(refs) == 0 {
		if parents := messageIDs(m.current.first("in-reply-to")); len(parents) == 1 {
			refs = parents
		}
	}
	const most = 20 // the first one and the latest are what threads hang on
	if len(refs) > most {
		refs = append(refs[:1:1], refs[len(refs)-most+1:]...)
	}
	return id[0], strings.Join(append(refs, id[0]), " ")
}

// messageIDs finds the message ids in a field's value.
func messageIDs(s string) []string {
	var out []string
	for word := range strings.FieldsSeq(s) {
		ascii := !strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' })
		if len(word) > 2 && len(word) < 500 && word[0] == '<' && word[len(word)-1] == '>' && ascii {
			out = append(out, word)
		}
	}
	return out
}

// wanted decides whether a reply is in place (RFC 5230, Sections 4.5 and 4.6),
// and which of the user's addresses the message was for.
func (o *vacationOp) wanted(m *machine) (address, bool, error) {
	more, err := o.addresses.values(m)
	if err != nil || m.automatic() {
		return address{}, false, err
	}
	sender := envelopeAddress(m.env.From)
	own := []address{}
	for _, list := range [][]string{m.env.Addresses, {m.env.To}, more} {
		for _, s := range list {
			if a, ok := parseAddress(s); ok {
				own = append(own, a)
			}
		}
	}
	if containsAddress(own, sender) { // nobody answers himself
		return address{}, false, nil
	}
	for _, name := range []string{"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"} {
		for _, list := range m.addresses(name) {
			for _, a := range list {
				if err := m.work(1 + len(own)/4); err != nil {
					return address{}, false, err
				}
				if containsAddress(own, a) {
					return own[0], true, nil
				}
			}
		}
	}
	return address{}, false, nil
}

func containsAddress(list []address, a address) bool {
	return slices.ContainsFunc(list, a.same)
}

// listFields are the fields that only mailing lists write (RFC 2369, RFC 2919).
var listFields = []string{"list-id", "list-help", "list-subscribe", "list-unsubscribe", "list-post", "list-owner", "list-archive"}

// automatic tells that nobody would read a reply.
func (m *machine) automatic() bool {
	sender := envelopeAddress(m.env.From)
	local := lower(sender.local)
	switch local {
	case "", "mailer-daemon", "listserv", "majordomo", "mailman", "noreply", "no-reply", "donotreply", "do-not-reply":
		return true
	}
	if sender.domain == "" || strings.HasPrefix(local, "owner-") || strings.HasSuffix(local, "-request") ||
		strings.HasSuffix(local, "-owner") || strings.HasSuffix(local, "-bounces") || strings.Contains(local, "-bounces+") {
		return true
	}
	for _, name := range listFields {
		if len(m.header(name)) > 0 {
			return true
		}
	}
	for _, v := range m.header("auto-submitted") {
		if word, _, _ := strings.Cut(v, ";"); lower(strings.TrimSpace(word)) != "no" {
			return true
		}
	}
	for _, v := range m.header("precedence") {
		if slices.Contains([]string{"bulk", "list", "junk"}, lower(v)) {
			return true
		}
	}
	// Microsoft's way of saying the same.
	for _, v := range m.header("x-auto-response-suppress") {
		if v = lower(v); strings.Contains(v, "all") || strings.Contains(v, "oof") {
			return true
		}
	}
	return false
}

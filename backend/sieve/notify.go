package sieve

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// notifyOp is "notify" (RFC 5435, Section 3) with the mailto method (RFC 5436).
type notifyOp struct {
	method                    text
	from, importance, message *text
}

func compileNotify(c *compiler, b *call) (op, *Error) {
	o := &notifyOp{}
	var err *Error
	if o.from, err = c.optionalString(b, "from"); err != nil {
		return nil, err
	}
	if o.importance, err = c.optionalString(b, "importance"); err != nil {
		return nil, err
	}
	if o.message, err = c.optionalString(b, "message"); err != nil {
		return nil, err
	}
	if b.tagged("options") { // mailto has none; they are checked all the same
		if _, err = c.strings(b.tags["options"][0]); err != nil {
			return nil, err
		}
	}
	if o.importance != nil && o.importance.isConstant() && !validImportance(o.importance.constant) {
		return nil, b.tags["importance"][0].fault(`:importance is "1", "2" or "3"`)
	}
	if o.method, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	if o.method.isConstant() {
		if _, err := parseMailto(o.method.constant); err != nil {
			return nil, b.pos[0].fault("%v", err)
		}
	}
	return o, nil
}

func validImportance(s string) bool { return s == "1" || s == "2" || s == "3" }

func (o *notifyOp) do(m *machine) error {
	method, err := o.method.value(m)
	if err != nil {
		return err
	}
	to, err := parseMailto(method)
	if err != nil {
		return err
	}
	// No notices of notices, nor of other automatic mail (RFC 5436, Section 2.7).
	for _, v := range m.header("auto-submitted") {
		if word, _, _ := strings.Cut(v, ";"); !equalFold(strings.TrimSpace(word), "no") {
			return nil
		}
	}
	n := &Notify{HeaderTo: to.to, HeaderCc: to.cc, Fields: to.fields, Body: to.body, Importance: '2',
		Owner: m.env.primary(), NullSender: m.env.From == ""}
	for _, a := range slices.Concat(to.to, to.cc, to.bcc) {
		if !m.notified(a) && !slices.Contains(n.To, a) {
			n.To = append(n.To, a)
		}
	}
	if len(n.To) == 0 {
		return nil
	}
	if m.notices++; m.notices > m.limits.Notices {
		return limitError("more than %d notifications", m.limits.Notices)
	}
	if err := o.fill(m, n, to.subject); err != nil {
		return err
	}
	return m.act(n)
}

// notified tells that an address has a notice of this message already.
func (m *machine) notified(to string) bool {
	return slices.ContainsFunc(m.actions, func(a Action) bool {
		n, ok := a.(*Notify)
		return ok && slices.Contains(n.To, to)
	})
}

func (o *notifyOp) fill(m *machine, n *Notify, subject string) error {
	importance, err := valueOf(m, o.importance, "2")
	if err != nil {
		return err
	}
	if !validImportance(importance) {
		return fmt.Errorf(`the importance is "1", "2" or "3", not %q`, cut(importance, 20))
	}
	n.Importance = importance[0]
	if n.From, err = valueOf(m, o.from, ""); err != nil {
		return err
	}
	if _, ok := parseAddress(n.From); !ok {
		n.From = m.env.primary()
	}
	if subject == "" {
		if s := m.header("subject"); len(s) > 0 {
			subject = s[0]
		}
	}
	if subject, err = valueOf(m, o.message, subject); err != nil {
		return err
	}
	n.Subject = oneLine(subject)
	if ids := messageIDs(m.current.first("message-id")); len(ids) > 0 {
		n.References = ids[0]
	}
	return nil
}

// mailto is a parsed mailto URI.
type mailto struct {
	to, cc, bcc   []string
	subject, body string
	fields        []Field
}

// unsafeFields are URI headers that are left out (RFC 5436, Section 2.7), and
// those that would say who sent the notice, or how its text is encoded.
var unsafeFields = []string{
	"auto-submitted", "received", "from", "date", "message-id", "sender", "reply-to", "return-path",
	"mime-version", "references", "in-reply-to", "importance", "priority", "x-priority", "delivered-to",
	"dkim-signature", "authentication-results",
}

const (
	maxNoticeRecipients = 8
	maxNoticeFields     = 16
)

// parseMailto reads a mailto URI (RFC 6068).
func parseMailto(uri string) (*mailto, error) {
	scheme, rest, ok := strings.Cut(uri, ":")
	if !ok || !equalFold(scheme, "mailto") {
		return nil, fmt.Errorf("the notification method %q is not supported; mailto: is", cut(uri, 100))
	}
	rest, _, _ = strings.Cut(rest, "#")
	addresses, query, _ := strings.Cut(rest, "?")
	m := &mailto{}
	if err := addRecipients(&m.to, addresses); err != nil {
		return nil, err
	}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if err := m.header(name, value); err != nil {
			return nil, err
		}
	}
	switch n := len(m.to) + len(m.cc) + len(m.bcc); {
	case n == 0:
		return nil, errors.New("the mailto URI names no recipient")
	case n > maxNoticeRecipients:
		return nil, fmt.Errorf("the mailto URI names more than %d recipients", maxNoticeRecipients)
	case len(m.fields) > maxNoticeFields:
		return nil, fmt.Errorf("the mailto URI has more than %d header fields", maxNoticeFields)
	}
	return m, nil
}

func (m *mailto) header(rawName, rawValue string) error {
	name, err := url.PathUnescape(rawName)
	if err != nil {
		return fmt.Errorf("the mailto URI is malformed: %w", err)
	}
	spelled := name
	switch name = lower(name); name {
	case "to":
		return addRecipients(&m.to, rawValue)
	case "cc":
		return addRecipients(&m.cc, rawValue)
	case "bcc":
		return addRecipients(&m.bcc, rawValue)
	}
	value, err := url.PathUnescape(rawValue)
	if err != nil {
		return fmt.Errorf("the mailto URI is malformed: %w", err)
	}
	value = strings.ToValidUTF8(value, string(utf8.RuneError))
	switch {
	case name == "subject":
		m.subject = oneLine(value)
	case name == "body":
		m.body = value
	case !validFieldName(name):
		return fmt.Errorf("the mailto URI has a header %q, which is no name of a field", cut(name, 60))
	case !slices.Contains(unsafeFields, name) && !strings.HasPrefix(name, "resent-") && !strings.HasPrefix(name, "content-"):
		m.fields = append(m.fields, Field{Name: spelled, Value: oneLine(value)})
	}
	return nil
}

func addRecipients(list *[]string, raw string) error {
	for one := range strings.SplitSeq(raw, ",") {
		if one == "" {
			continue
		}
		s, err := url.PathUnescape(one)
		if err != nil {
			return fmt.Errorf("the mailto URI is malformed: %w", err)
		}
		a, ok := parseAddress(s)
		if !ok {
			return fmt.Errorf("the mailto URI has %q, which is no address", cut(s, 100))
		}
		*list = append(*list, quoteAddress(a))
	}
	return nil
}

// validNotifyTest is valid_notify_method (RFC 5435, Section 4).
type validNotifyTest struct{ uris texts }

func compileValidNotify(c *compiler, b *call) (check, *Error) {
	uris, err := c.strings(b.pos[0])
	return &validNotifyTest{uris}, err
}

func (t *validNotifyTest) eval(m *machine) (bool, error) {
	uris, err := t.uris.values(m)
	if err != nil {
		return false, err
	}
	for _, u := range uris {
		if err := m.work(1 + len(u)/16); err != nil {
			return false, err
		}
		if _, err := parseMailto(u); err != nil {
			return false, nil
		}
	}
	return true, nil
}

// notifyCapabilityTest is notify_method_capability (RFC 5435, Section 5). Of
// mail nobody can say whether it is seen at once (RFC 5436, Section 2.2).
type notifyCapabilityTest struct {
	uri, capability text
	match           *matcher
}

func compileNotifyCapability(c *compiler, b *call) (check, *Error) {
	t := &notifyCapabilityTest{}
	var err *Error
	if t.uri, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	if t.capability, err = c.string(b.pos[1]); err != nil {
		return nil, err
	}
	t.match, err = c.matcher(b, b.pos[2])
	return t, err
}

func (t *notifyCapabilityTest) eval(m *machine) (bool, error) {
	uri, err := t.uri.value(m)
	if err != nil {
		return false, err
	}
	capability, err := t.capability.value(m)
	if err != nil {
		return false, err
	}
	if _, err := parseMailto(uri); err != nil || lower(capability) != "online" {
		return false, nil
	}
	return t.match.test(m, []string{"maybe"}, 1)
}

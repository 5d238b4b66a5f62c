package sieve

import "slices"

// addressFields are the fields that hold addresses; the address test takes no
// other (RFC 5228, Section 5.1).
var addressFields = []string{
	"apparently-to", "bcc", "cc", "delivered-to", "disposition-notification-to", "envelope-to", "errors-to",
	"for-approval", "for-comment", "for-handling", "from", "mail-copies-to", "mail-followup-to",
	"mail-reply-to", "original-recipient", "reply-to", "resent-bcc", "resent-cc", "resent-from",
	"resent-reply-to", "resent-sender", "resent-to", "return-path", "return-receipt-to", "sender", "to",
	"x-envelope-from", "x-envelope-to", "x-original-to",
}

// addressPart is which part of an address is compared (RFC 5228, Section
// 2.7.4; RFC 5233, Section 4).
type addressPart string

// of gives the part of an address; ok is false where there is no such part.
func (p addressPart) of(a address, separator string) (string, bool) {
	switch p {
	case "localpart":
		return a.local, true
	case "domain":
		return a.domain, true
	case "user":
		user, _, _ := a.subaddress(separator)
		return user, true
	case "detail":
		_, detail, ok := a.subaddress(separator)
		return detail, ok
	}
	if a.domain == "" {
		return a.local, true
	}
	return quoteAddress(a), true // so that a script can redirect to what it has matched
}

func compilePart(b *call) (addressPart, *Error) {
	name, err := b.oneOf("all", "localpart", "domain", "user", "detail")
	return addressPart(name), err
}

type addressTest struct {
	names texts
	index index
	part  addressPart
	match *matcher
}

func compileAddress(c *compiler, b *call) (check, *Error) {
	t := &addressTest{}
	var err *Error
	if t.part, err = compilePart(b); err != nil {
		return nil, err
	}
	if t.index, err = compileIndex(b); err != nil {
		return nil, err
	}
	if t.names, err = c.fieldNames(b.pos[0]); err != nil {
		return nil, err
	}
	for i, n := range t.names.constants {
		if !slices.Contains(addressFields, n) {
			return nil, b.pos[0].list[i].fault("the field %q holds no addresses; test it with header", n)
		}
	}
	t.match, err = c.matcher(b, b.pos[1])
	return t, err
}

func (t *addressTest) eval(m *machine) (bool, error) {
	names, err := t.names.values(m)
	if err != nil {
		return false, err
	}
	var lists [][]address
	if t.index.number == 0 {
		for _, n := range names {
			lists = append(lists, m.addresses(lower(n))...)
		}
	} else {
		lists = m.indexed(names, t.index)
	}
	var values []string
	count := 0
	for _, list := range lists {
		for _, a := range list {
			count++
			if v, ok := t.part.of(a, m.env.separator()); ok {
				values = append(values, v)
			}
		}
	}
	return t.match.test(m, values, count)
}

// indexed gives the addresses of the one field that an index picks among all
// the fields of several names.
func (m *machine) indexed(names []string, i index) [][]address {
	var lists [][]address
	for _, n := range names {
		lists = append(lists, m.addresses(lower(n))...)
	}
	switch n := int64(len(lists)); {
	case i.number > n:
		return nil
	case i.last:
		return lists[n-i.number:][:1]
	}
	return lists[i.number-1:][:1]
}

// envelopeTest is "envelope" (RFC 5228, Section 5.4). Besides "from" and "to"
// it knows "auth", the sender as it logged in, where that is told.
type envelopeTest struct {
	parts texts
	part  addressPart
	match *matcher
}

func compileEnvelope(c *compiler, b *call) (check, *Error) {
	t := &envelopeTest{}
	var err *Error
	if t.part, err = compilePart(b); err != nil {
		return nil, err
	}
	if t.parts, err = c.strings(b.pos[0]); err != nil {
		return nil, err
	}
	for i, p := range t.parts.constants {
		if p = lower(p); p != "from" && p != "to" && p != "auth" {
			return nil, b.pos[0].list[i].fault(`envelope knows "from", "to" and "auth", not %q`, p)
		}
	}
	t.match, err = c.matcher(b, b.pos[1])
	return t, err
}

func (t *envelopeTest) eval(m *machine) (bool, error) {
	parts, err := t.parts.values(m)
	if err != nil {
		return false, err
	}
	var values []string
	count := 0
	for _, p := range parts {
		value := ""
		switch lower(p) {
		case "from":
			value = m.env.From
		case "to":
			if value = m.env.To; value == "" {
				continue
			}
		case "auth":
			if value = m.env.Auth; value == "" {
				continue
			}
		default:
			continue
		}
		// The null sender is an empty string, whatever part is asked for.
		a := envelopeAddress(value)
		if value != "" {
			count++
		}
		if v, ok := t.part.of(a, m.env.separator()); ok {
			values = append(values, v)
		}
	}
	return t.match.test(m, values, count)
}

// envelopeAddress splits an address as SMTP gives it, without brackets.
func envelopeAddress(s string) address {
	if list := parseAddresses(s); len(list) == 1 {
		return list[0]
	}
	return address{local: s}
}

package sieve

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"
)

// memoryKey makes a key of bounded length out of any strings.
func memoryKey(kind string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(strconv.Itoa(len(p)) + ":" + p))
	}
	return kind + ":" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (m *machine) remembered(key string) (bool, error) {
	if m.env.Remembered == nil {
		return false, nil
	}
	ok, err := m.env.Remembered(m.ctx, key)
	if err != nil {
		return false, fmt.Errorf("look for what was remembered: %w", err)
	}
	return ok, m.work(16)
}

// remember notes a memory; one for the same key is replaced.
func (m *machine) remember(key string, keep time.Duration) error {
	until := m.env.Now.Add(keep)
	for i := range m.memories {
		if m.memories[i].Key == key {
			m.memories[i].Until = until
			return nil
		}
	}
	if len(m.memories) >= m.limits.Actions {
		return limitError("more than %d things to remember", m.limits.Actions)
	}
	m.memories = append(m.memories, Memory{key, until})
	return nil
}

// seconds turns a number of a script into a duration, at most most.
func seconds(n int64, unit, most time.Duration) time.Duration {
	if n > int64(most/unit) {
		return most
	}
	return time.Duration(n) * unit
}

// duplicateTest is "duplicate" (RFC 7352).
type duplicateTest struct {
	header, id, handle *text
	seconds            int64 // -1 for the default
	last               bool
}

// optionalString compiles a tag's string; nil if the tag is not there.
func (c *compiler) optionalString(b *call, tag string) (*text, *Error) {
	if !b.tagged(tag) {
		return nil, nil
	}
	t, err := c.string(b.tags[tag][0])
	return &t, err
}

func compileDuplicate(c *compiler, b *call) (check, *Error) {
	t := &duplicateTest{seconds: -1, last: b.tagged("last")}
	if _, err := b.oneOf("header", "uniqueid"); err != nil {
		return nil, err
	}
	var err *Error
	if t.header, err = c.optionalString(b, "header"); err != nil {
		return nil, err
	}
	if t.id, err = c.optionalString(b, "uniqueid"); err != nil {
		return nil, err
	}
	if b.tagged("seconds") {
		t.seconds = b.tags["seconds"][0].number
	}
	t.handle, err = c.optionalString(b, "handle")
	return t, err
}

func (t *duplicateTest) eval(m *machine) (bool, error) {
	id, ok, err := t.uniqueID(m)
	if !ok || err != nil || t.seconds == 0 {
		return false, err
	}
	handle, err := valueOf(m, t.handle, "")
	if err != nil {
		return false, err
	}
	keep := m.env.DuplicateDefault
	if t.seconds > 0 {
		keep = seconds(t.seconds, time.Second, m.env.DuplicateMax)
	}
	key := memoryKey("duplicate", handle, id)
	seen, err := m.remembered(key)
	if err != nil {
		return false, err
	}
	// Without ":last" the time counts from the first message (Section 3.3).
	if !seen || t.last {
		err = m.remember(key, keep)
	}
	return seen, err
}

// valueOf gives an optional string's value.
func valueOf(m *machine, t *text, otherwise string) (string, error) {
	if t == nil {
		return otherwise, nil
	}
	return t.value(m)
}

func (t *duplicateTest) uniqueID(m *machine) (string, bool, error) {
	if t.id != nil {
		id, err := t.id.value(m)
		return id, true, err
	}
	name, err := valueOf(m, t.header, "message-id")
	if err != nil {
		return "", false, err
	}
	values := m.header(lower(name))
	if len(values) == 0 {
		return "", false, nil
	}
	return values[0], true, nil
}

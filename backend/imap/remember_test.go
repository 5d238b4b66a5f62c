package imap

import (
	"testing"

	"waypost/backend/imap/order"
	"waypost/backend/imap/search"
)

func TestMemory(t *testing.T) {
	m := newMemory(1000)
	key := func(folder string) memoryKey {
		return memoryKey{user: ann, folder: folder, validity: 1, key: order.Subject}
	}
	all := []search.Known{{UID: 1, Value: order.Value{Text: "HELLO"}}, {UID: 2}}
	for _, f := range []string{"a", "b", "c"} {
		m.put(key(f), all)
	}
	m.get(key("a"))
	m.put(key("d"), all)
	for f, want := range map[string]int{"a": 2, "b": 0, "c": 2, "d": 2} {
		if got := m.get(key(f)); len(got) != want {
			t.Errorf("%s: %v", f, got)
		}
	}
	m.put(key("d"), make([]search.Known, 100))
	if m.bytes != 0 || len(m.at) != 0 || m.used.Len() != 0 {
		t.Errorf("%d bytes of what is too much", m.bytes)
	}
	other := key("a")
	m.put(key("a"), all)
	if other.validity++; m.get(other) != nil {
		t.Error("of another UIDVALIDITY")
	}
}

package pop3

import (
	"errors"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// TestOlderUIDL: ids as the Dovecot had them that the mailbox came from.
func TestOlderUIDL(t *testing.T) {
	const base = "1600000000.M1P2.host,S=10,W=11"
	m := mailbox.Message{UID: 0x1ff, GUID: "1600000000.M1P2.host"}
	plain := mailbox.OlderID{GUID: base, File: base}
	for _, row := range []struct {
		format string
		id     mailbox.OlderID
		want   string
	}{
		{"%08Xu%08Xv", plain, "000001ff000004d2"},
		{"%v.%u", plain, "1234.511"},
		{"%g", plain, base},
		{"%g", mailbox.OlderID{GUID: "guid", File: base}, "guid"},
		{"%f", mailbox.OlderID{GUID: "guid", File: base}, base},
		{"x%f", plain, "x" + base},
		{"%08Xu%08Xv", mailbox.OlderID{Kept: "UID7-9", GUID: base, File: base}, "UID7-9"},
		{"%f", mailbox.OlderID{Kept: "no id\x01", File: base}, "000001ff000004d2"},
		{"%f", mailbox.OlderID{File: strings.Repeat("x", 200)}, strings.Repeat("x", 200)},
		{"%f", mailbox.OlderID{}, "000001ff000004d2"},
	} {
		u, err := ParseOlderUIDL(row.format)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Older(m, 1234, row.id); got != row.want {
			t.Errorf("%s of %+v: %q, want %q", row.format, row.id, got, row.want)
		}
	}
	for _, bad := range []string{"", "%m", "%v", "%", "%Xf"} {
		if _, err := ParseOlderUIDL(bad); !errors.Is(err, ErrUIDLFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseUIDL("%f"); !errors.Is(err, ErrUIDLFormat) {
		t.Errorf("%%f of our own: %v", err)
	}
}

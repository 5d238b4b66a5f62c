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
		// The forms that Dovecot's documentation names for those who come to it from
		// other servers: UW ipop3d, Courier, Cyrus, Dovecot 0.99, tpop3d; and 2.4's.
		{"%08Xv%08Xu", plain, "000004d2000001ff"},
		{"%u", plain, "511"},
		{"%v-%u", plain, "1234-511"},
		{"%Mf", plain, "a355db59780657fd89cc567423da0b83"},
		{"%08UXu", plain, ""},
		{"%{uid}.%{uidvalidity}", plain, "511.1234"},
		{"%08X{uid}%08X{uidvalidity}", plain, "000001ff000004d2"},
		{"%{uid | hex(8)}%{uidvalidity | hex(8)}", plain, "000001ff000004d2"},
		{"%{uid|hex}", plain, "1ff"},
		{"%{filename | md5 | hexlify}", plain, "a355db59780657fd89cc567423da0b83"},
		{"%{guid | upper}", mailbox.OlderID{GUID: "guid", File: base}, "GUID"},
	} {
		u, err := ParseOlderUIDL(row.format)
		if row.want == "" {
			if !errors.Is(err, ErrUIDLFormat) {
				t.Errorf("%s: %v", row.format, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Older(m, 1234, row.id); got != row.want {
			t.Errorf("%s of %+v: %q, want %q", row.format, row.id, got, row.want)
		}
	}
	for _, bad := range []string{"", "%m", "%v", "%", "%Xf", "%{", "%{x}", "%{uid | hex(99)}", "%{uid | hex(8}", "%{uid|}", "%{md5}", "%X", "%XMu", "%08{uid"} {
		if _, err := ParseOlderUIDL(bad); !errors.Is(err, ErrUIDLFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseUIDL("%f"); !errors.Is(err, ErrUIDLFormat) {
		t.Errorf("%%f of our own: %v", err)
	}
}

package popwords

import (
	"strings"
	"testing"
	"time"
)

func TestLang(t *testing.T) {
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "+OK Language listing follows.\r\nen English\r\ni-default English, the default\r\n.\r\n"},
		{[]string{"en"}, "+OK en Language changed.\r\n"},
		{[]string{"EN"}, "+OK en Language changed.\r\n"},
		{[]string{"en-GB-oed"}, "+OK en Language changed.\r\n"},
		{[]string{"i-default"}, "+OK i-default Language changed.\r\n"},
		{[]string{"*"}, "+OK en Language changed.\r\n"},
		{[]string{"de"}, "-ERR Language is not supported.\r\n"},
		{[]string{"-"}, "-ERR Language is not supported.\r\n"},
		{[]string{"en", "de"}, "-ERR LANG wants one language.\r\n"},
	} {
		if got := Lang(row.args); got != row.want {
			t.Errorf("%q: %q, want %q", row.args, got, row.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, line := range Common() {
		// RFC 2449, Section 5: at most 512 octets, printable ASCII.
		if len(line) > 500 || strings.Trim(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-8 1") != "" {
			t.Errorf("%q is no capability", line)
		}
	}
	if got := LoginDelay(1500 * time.Millisecond); got != "LOGIN-DELAY 2" {
		t.Error(got)
	}
}

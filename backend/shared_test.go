package backend

import (
	"testing"

	"waypost/backend/mailbox/archive"
)

func TestSharedNamespace(t *testing.T) {
	archives := []archive.Config{{Name: "Old Mail"}}
	for name, ok := range map[string]bool{
		"": true, "-": true, "Other Users": true, "Geteilt für alle": true,
		"a/b": false, "a.b": false, "inbox": false, "Old Mail": false, "x*": false, "x%": false, " x": false, "x\n": false, "\xff": false,
	} {
		if err := validShared(name, archives); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

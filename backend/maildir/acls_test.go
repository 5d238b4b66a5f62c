package maildir

import (
	"maps"
	"testing"

	"waypost/backend/mailbox"
)

// All ACLs are told, of folders that are loaded and of those that are not.
func TestACLs(t *testing.T) {
	s := newSetup(t, nil)
	for _, name := range []string{"A", "A/B", "C"} {
		must(t, s.b.CreateFolder(name, ""))
	}
	must(t, s.b.SetACL("A/B", "bea@example.test", "lr"))
	must(t, s.b.SetACL("A/B", "anyone", "l"))
	must(t, s.b.SetACL("INBOX", "anyone", "i"))
	must(t, s.b.SetACL("C", "anyone", "l"))
	must(t, s.b.SetACL("C", "anyone", ""))
	want := map[string]mailbox.ACL{"A/B": {"bea@example.test": "lr", "anyone": "l"}, "INBOX": {"anyone": "i"}}
	for range 2 {
		all, err := s.b.(*box).ACLs()
		must(t, err)
		if !maps.EqualFunc(all, want, func(a, b mailbox.ACL) bool { return maps.Equal(a, b) }) {
			t.Errorf("%v, want %v", all, want)
		}
		s.reopen()
	}
}

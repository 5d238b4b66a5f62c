package cli

import (
	"strings"
	"testing"

	"waypost/director/admin"
)

func TestImportOneMaildir(t *testing.T) {
	f := newFakeAPI(t)
	sent := importer(t, f)
	r := f.run("", "user", "import", "Ann@x.test", "--maildir", "/var/vmail/ann", "--home", "b1", "--link",
		"--pop3-uidl", "%v-%u", "--password-hash", "{SHA}1", "--quota-bytes", "1KiB")
	want := []admin.CreateUser{{
		User: "ann@x.test", PasswordHash: "{SHA}1", QuotaBytes: 1024, Home: "b1",
		Maildir: &admin.Maildir{Path: "/var/vmail/ann", Mode: "link", POP3UIDL: "%v-%u"},
	}}
	if r.code != exitDone || r.stdout != "1 created, 0 there already, 0 failed\n" || asJSON(t, *sent) != asJSON(t, want) {
		t.Errorf("%+v, sent %s", r, asJSON(t, *sent))
	}
	*sent = nil
	for _, wrong := range []struct{ args, says string }{
		{"ann@x.test --maildir /m", "--home"},
		{"ann --maildir /m --home b1", "ann"},
		{"ann@x.test --maildir /m --home b1 --copy --move", "choose one of"},
		{"ann@x.test --maildir /m --home B!", "B!"},
		{"users.csv --home b1", "--maildir"},
		{"- --link", "--maildir"},
	} {
		r := f.run("", append([]string{"user", "import"}, strings.Fields(wrong.args)...)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, wrong.says) {
			t.Errorf("%s: %+v", wrong.args, r)
		}
	}
	if len(*sent) != 0 {
		t.Errorf("sent %s", asJSON(t, *sent))
	}
}

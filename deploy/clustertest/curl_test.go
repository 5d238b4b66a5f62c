package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// curlWorks changes a mailbox by curl's single commands, and reads it by IMAP and
// POP3, before a move and behind it.
func (c *clients) curlWorks(t *testing.T, f *far) {
	home := filepath.Join(c.dir, "curl-works")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	server := fmt.Sprintf("imaps://localhost:%d/", 1993+c.offset)
	maildrop := fmt.Sprintf("pop3s://localhost:%d/", 1995+c.offset)
	curl := func(args ...string) string {
		t.Helper()
		return must(t, home, "curl", append([]string{"-sS", "--cacert", c.ca, "-u", string(f.u) + ":" + password}, args...)...)
	}
	const box, boxURL = "Grüße, Sören", "Gr%26APwA3w-e%2C%20S%26APY-ren"
	curl(server, "-X", `CREATE "Gr&APwA3w-e, S&APY-ren"`)
	curl(server, "-X", "CREATE Trash/Old")
	want := holdings{"INBOX": nil, box: nil, "Trash/Old": nil, "Trash": nil}
	if _, ok := f.holdings()["Trash"]; !ok {
		delete(want, "Trash") // a parent need not be a mailbox
	}
	for _, s := range []string{"one", "two", "three", "four"} {
		curl(server+"INBOX", "-T", put(t, home, "mail", letter("curl-"+s), 0o600))
		want.add("INBOX", letter("curl-"+s), "\\seen") // curl says so
	}
	curl(server+boxURL, "-T", put(t, home, "mail", letter("curl-umlauts"), 0o600))
	want.add(box, letter("curl-umlauts"), "\\seen")
	equal(t, "curl -T", f.holdings(), want)

	uid := f.find("INBOX", "curl-two").String()
	if got := curl(server + "INBOX;UID=" + uid); got != letter("curl-two") {
		t.Errorf("FETCH by UID: %.300q", got)
	}
	_, body, _ := strings.Cut(letter("curl-two"), "\r\n\r\n")
	if got := curl(server + "INBOX;UID=" + uid + ";SECTION=TEXT"); got != body {
		t.Errorf("FETCH of the text: %.300q", got)
	}
	if got := curl(server + boxURL + "?SUBJECT%20umlauts"); strings.TrimSpace(got) != "* SEARCH 1" {
		t.Errorf("SEARCH: %q", got)
	}
	if got := curl(server+"INBOX", "-X", "UID SEARCH SUBJECT curl-two"); strings.TrimSpace(got) != "* SEARCH "+uid {
		t.Errorf("UID SEARCH: %q", got)
	}
	if got := curl(server); !strings.Contains(got, "INBOX") || !strings.Contains(got, "&APwA3w-") {
		t.Errorf("LIST: %q", got)
	}
	curl(server+"INBOX", "-X", "UID STORE "+uid+` +FLAGS.SILENT (\Flagged $curl)`)
	want.flags(t, "INBOX", "curl-two", "\\seen", "\\flagged", "$curl")
	curl(server+"INBOX", "-X", "UID MOVE "+f.find("INBOX", "curl-three").String()+" Trash/Old")
	want.add("Trash/Old", want.removes(t, "INBOX", "curl-three"), "\\seen")
	f.flag("INBOX", "curl-one", imap.StoreFlagsAdd, imap.FlagDeleted)
	curl(server+"INBOX", "-X", "EXPUNGE")
	want.removes(t, "INBOX", "curl-one")
	equal(t, "curl's commands", f.holdings(), want)

	reads := func() (all []string) {
		for _, args := range [][]string{{server, "-X", "STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ)"}, {server + "INBOX?ALL"},
			{maildrop}, {maildrop, "-X", "UIDL"}, {maildrop + "1"}, {maildrop + "2"}, {maildrop, "-X", "TOP 1 0"}} {
			all = append(all, curl(args...))
		}
		return all
	}
	before := reads()
	if got := strings.Count(before[2], "\n"); got != 2 {
		t.Errorf("POP3 lists %q", before[2])
	}
	if before[4] != letter("curl-two") || before[5] != letter("curl-four") || !strings.HasPrefix(letter("curl-two"), strings.TrimRight(before[6], "\r\n")) {
		t.Errorf("POP3 reads %.300q", before[4:])
	}
	f.move()
	for i, got := range reads() {
		if got != before[i] {
			t.Errorf("after a move %q, before it %q", got, before[i])
		}
	}
	curl(maildrop+"1", "-I", "-X", "DELE")
	want.removes(t, "INBOX", "curl-two")
	equal(t, "curl's DELE", f.holdings(), want)
}

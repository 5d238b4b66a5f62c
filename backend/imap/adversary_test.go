package imap

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// shareBox is a Box on whose folders the session has only some rights.
type shareBox struct {
	mailbox.Box
	rights mailbox.Rights
}

// Rights implements mailbox.Box.
func (b *shareBox) Rights(string) (mailbox.Rights, error) { return b.rights, nil }

// What CLOSE says must not cover what the client was not told of: a resync from there would lose it.
func TestCloseTellsNoModSeqTooHigh(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("ENABLE QRESYNC")
	c.ok("SELECT INBOX")
	c.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}}); err != nil {
		t.Fatal(err)
	}
	if _, status := c.cmd("CLOSE"); status != "OK CLOSE completed" {
		t.Fatalf("CLOSE: %s", status)
	}
}

// "1:*" is everything, for what is gone as well.
func TestVanishedOfStar(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 6 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("ENABLE QRESYNC")
	c.ok("SELECT INBOX")
	c.ok("STORE 2,4,6 +FLAGS.SILENT (\\Deleted)")
	c.ok("EXPUNGE")
	for set, want := range map[string]string{
		"1:*": "2,4,6", "*:1": "2,4,6", "3:*": "4,6", "4,1:2": "2,4", "6:*": "6",
	} {
		got, _ := c.cmd("UID FETCH %s (UID) (CHANGEDSINCE 1 VANISHED)", set)
		if len(got) == 0 || got[0] != "* VANISHED (EARLIER) "+want {
			t.Errorf("%s: %q, want %s", set, got, want)
		}
	}
}

// A value of the greatest size there is goes through, whatever stands behind it.
func TestMetadataOfGreatestSize(t *testing.T) {
	for _, size := range []int{60 << 10, mailbox.MaxMetadataValue - 20, mailbox.MaxMetadataValue} {
		r := newRig(t, Limits{})
		c := r.dial(r.box(1))
		value := strings.Repeat("v", size)
		c.send("a SETMETADATA INBOX (/private/comment {%d+}\r\n%s /private/x \"y\")\r\n", size, value)
		if _, status := c.until("a"); !strings.HasPrefix(status, "OK") {
			t.Fatalf("%d bytes: %s", size, status)
		}
		got := c.ok("GETMETADATA INBOX /private/comment")
		if len(got) != 1 || !strings.Contains(got[0], value) {
			t.Fatalf("%d bytes are lost", size)
		}
	}
}

// A sort key that comes again decides nothing, and costs nothing.
func TestSortKeysOnce(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.fill(b, 50_000)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	got := c.ok("SORT (%s REVERSE SIZE) UTF-8 ALL", strings.TrimSpace(strings.Repeat("SIZE ", 990)))
	if len(got) != 1 || !strings.HasPrefix(got[0], "* SORT 1 2 3 ") {
		t.Fatalf("%.50q", got)
	}
}

// "$" is resolved once, however often a search names it.
func TestSavedResultOften(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.fill(b, 50_000)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	var odd []mailbox.UID
	for uid := mailbox.UID(1); uid <= 50_000; uid += 2 {
		odd = append(odd, uid)
	}
	if _, err := f.SetFlags(odd, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}}); err != nil {
		t.Fatal(err)
	}
	c.ok("NOOP")
	c.ok("SEARCH RETURN (SAVE) FLAGGED")
	got := c.ok("SEARCH RETURN (COUNT)%s", strings.Repeat(" $", 900))
	if len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " COUNT 25000") {
		t.Fatalf("%q", got)
	}
}

// CLOSE without the right to expunge is UNSELECT (RFC 4314, Section 4).
func TestCloseWithoutRight(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(&shareBox{b, "lrst"})
	c.ok("SELECT INBOX")
	c.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
	c.ok("CLOSE")
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := f.Snapshot(); err != nil || snap.Messages.Len() != 1 {
		t.Fatalf("%d messages left, %v", snap.Messages.Len(), err)
	}
}

// Who may not expunge replaces nothing, and is told before the message is sent.
func TestReplaceWithoutRight(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(&shareBox{b, "lrsti"})
	c.ok("SELECT INBOX")
	c.send("a REPLACE 1 INBOX {5}\r\n")
	if got, status := c.until("a"); len(got) != 0 || !strings.HasPrefix(status, "NO [NOPERM]") {
		t.Fatalf("%q %s", got, status)
	}
	c.ok("NOOP")
}

// A message that CHANGEDSINCE leaves out is not seen.
func TestFetchChangedSinceMarksOnlyTold(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("SELECT INBOX (CONDSTORE)")
	got := c.ok("STORE 2 +FLAGS (\\Flagged)")
	var seq, modSeq int
	if _, err := fmt.Sscanf(got[0], "* %d FETCH (FLAGS (\\Flagged \\Recent) MODSEQ (%d))", &seq, &modSeq); err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	got = c.ok("FETCH 1:* (BODY[]) (CHANGEDSINCE %d)", modSeq-1)
	if len(got) != 1 || !strings.HasPrefix(got[0], "* 2 FETCH ") {
		t.Fatalf("%q", got)
	}
	c.want("SEARCH UNSEEN", "OK", "* SEARCH 1 3")
}

// What is refused with LITERAL+ is read to its end, so that the client can make the folder and try
// again.
func TestAppendRefusedGoesOn(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	size := 5 << 20
	c.send("a APPEND Sent {%d+}\r\n", size)
	if _, err := io.CopyN(c.nc, zeros{}, int64(size)); err != nil {
		t.Fatal(err)
	}
	c.send("\r\n")
	if _, status := c.until("a"); !strings.HasPrefix(status, "NO [TRYCREATE]") {
		t.Fatal(status)
	}
	c.ok("CREATE Sent")
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// limitBox has room for so many bytes, and notes the largest question.
type limitBox struct {
	mailbox.Box
	room int64
}

// Fits implements mailbox.Box.
func (b *limitBox) Fits(size int64) error {
	if size > b.room {
		return mailbox.ErrOverQuota
	}
	return nil
}

// The messages of one command count together: otherwise each could fill the disk up to the quota.
func TestAppendsFitTogether(t *testing.T) {
	for _, kind := range []string{"", "CATENATE (TEXT "} {
		r := newRig(t, Limits{})
		c := r.dial(&limitBox{r.box(1), 1000})
		end := ""
		if kind != "" {
			end = ")"
		}
		c.send("a APPEND INBOX %s{600}\r\n", kind)
		if l := c.line(); !strings.HasPrefix(l, "+") {
			t.Fatal(l)
		}
		c.send("%s%s %s{1500}\r\n", strings.Repeat("x", 600), end, kind)
		l := c.line()
		if kind != "" && strings.HasPrefix(l, "+") { // how long it will be is not known before
			c.send("%s%s\r\n", strings.Repeat("x", 1500), end)
			l = c.line()
		}
		if !strings.HasPrefix(l, "a NO [OVERQUOTA]") {
			t.Fatalf("%q: %s", kind, l)
		}
		c.want("STATUS INBOX (MESSAGES)", "OK", "* STATUS INBOX (MESSAGES 0)")
	}
}

// A LIST of odd patterns over a deep tree ends.
func TestListDeep(t *testing.T) {
	names := make([]listed, 0, 300)
	for i := range 300 {
		names = append(names, listed{FolderInfo: mailbox.FolderInfo{
			Name: strings.Repeat("a/", 100) + fmt.Sprint("b/", i), Subscribed: true,
		}})
	}
	a := &listArgs{recursive: true, subscribed: true, patterns: []string{strings.Repeat("*a", 400)}}
	tried := 0
	selectNames(names, a, func() bool { tried++; return false })
	if tried > 3*len(names)+300 {
		t.Fatalf("%d names were matched", tried)
	}
}

// Entries that are asked for are bounded: each folder of a LIST is asked for all of them.
func TestMetadataEntriesBounded(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, " /private/%d", i)
	}
	for _, command := range []string{
		"GETMETADATA INBOX (" + b.String()[1:] + ")", `LIST "" * RETURN (METADATA (` + b.String()[1:] + "))",
	} {
		if got, status := c.cmd("%s", command); len(got) != 0 || !strings.HasPrefix(status, "NO [LIMIT]") {
			t.Errorf("%.30s: %d answers, %s", command, len(got), status)
		}
	}
}

// A data item that is asked for again is told once.
func TestFetchItemsOnce(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	got := c.ok("FETCH 1 (BINARY.SIZE[1]%s)", strings.Repeat(" BINARY.SIZE[1]", 200))
	if len(got) != 1 || strings.Count(got[0], "BINARY.SIZE") != 1 {
		t.Fatalf("%.100q", got)
	}
	got = c.ok("FETCH 1 (BODY.PEEK[]<0.4> BODY.PEEK[]<4.4> BODY.PEEK[]<0.4>)")
	if len(got) != 1 || strings.Count(got[0], "BODY[]") != 2 {
		t.Fatalf("%.100q", got)
	}
}

// Keywords are told apart without regard to case (RFC 9051, Section 9: strings are case-insensitive
// where nothing else is said).
func TestKeywordsFoldCase(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.ok("STORE 1 +FLAGS ($Junk)")
	c.want("STORE 1 +FLAGS ($junk)", "OK", `* 1 FETCH (FLAGS ($Junk \Recent))`)
	c.want("STORE 1 -FLAGS ($JUNK)", "OK", `* 1 FETCH (FLAGS (\Recent))`)
}

// openBox counts the messages that are open.
type openBox struct {
	mailbox.Box
	open *int
}

type openFolder struct {
	mailbox.Folder
	open *int
}

type openBody struct {
	mailbox.Body
	open *int
}

// Folder implements mailbox.Box.
func (b *openBox) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &openFolder{f, b.open}, err
}

// Open implements mailbox.Folder.
func (f *openFolder) Open(uid mailbox.UID) (mailbox.Body, error) {
	b, err := f.Folder.Open(uid)
	if err == nil {
		*f.open++
	}
	return &openBody{b, f.open}, err
}

// Close implements io.Closer.
func (b *openBody) Close() error {
	*b.open--
	return b.Body.Close()
}

// A CATENATE that grows too long leaves nothing open.
func TestCatenateClosesParts(t *testing.T) {
	r := newRig(t, Limits{AppendBytes: 200})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	open := 0
	c := r.dial(&openBox{b, &open})
	c.want(`APPEND INBOX CATENATE (URL "/INBOX/;UID=1" URL "/INBOX/;UID=1")`, "NO [TOOBIG]")
	c.want(`APPEND INBOX CATENATE (URL "/INBOX/;UID=1")`, "OK [APPENDUID")
	if open != 0 {
		t.Fatalf("%d messages are open", open)
	}
}

// While the client may not be told what is gone, mod-sequences above that must not have it believe
// that it has all (RFC 7162, Section 3.2.10).
func TestModSeqAboveUntoldExpunge(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("ENABLE QRESYNC")
	c.ok("SELECT INBOX")
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Expunge([]mailbox.UID{2}); err != nil { // 5
		t.Fatal(err)
	}
	if _, err := f.SetFlags([]mailbox.UID{3}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}}); err != nil { // 6
		t.Fatal(err)
	}
	c.want("FETCH 1 (UID)", "OK", "* 1 FETCH (UID 1)", `* 3 FETCH (UID 3 FLAGS (\Flagged \Recent) MODSEQ (6))`,
		"* OK [HIGHESTMODSEQ 4] up to here")
	c.want("NOOP", "OK", "* VANISHED 2")
}

// Entries can be asked for from the top (RFC 5464, Section 4.2.2).
func TestMetadataFromTheTop(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	c.ok(`SETMETADATA INBOX (/private/comment "a" /shared/x/y "b")`)
	c.want("GETMETADATA (DEPTH infinity) INBOX (/private /shared)", "OK",
		`* METADATA INBOX (/private/comment "a" /shared/x/y "b" /private NIL /shared NIL)`)
	c.want(`SETMETADATA INBOX (/private "a")`, "BAD")
}

// otherBox has folders of others below "Other", who pay for what is in them.
type otherBox struct{ limitBox }

// Namespaces implements mailbox.Box.
func (b *otherBox) Namespaces() []mailbox.Namespace {
	return append(b.Box.Namespaces(), mailbox.Namespace{Kind: mailbox.OtherUsers, Prefix: "Other/"})
}

// Whose own quota is full can still put messages into another user's folder (RFC 9208, Section 3.2).
func TestAppendToOthersFitsTheirQuota(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(&otherBox{limitBox{r.box(1), 0}})
	c.ok("CREATE Other/bob")
	c.want("APPEND Other/bob {3+}\r\nx\r\n", "OK [APPENDUID")
	c.want("APPEND INBOX {3+}\r\nx\r\n", "NO [OVERQUOTA]")
}

// A search ends with its client: what nobody will hear is not looked for.
func TestSearchEndsWithClient(t *testing.T) {
	r := newRig(t, Limits{})
	r.srv.progressAfter = -1
	b := r.box(1)
	const messages = 2000
	for range messages {
		r.deliver(b, "INBOX", letter)
	}
	opened := 0 // by the session, which is at its end when it is looked at
	var c *client
	c = r.dial(&hookBox{b, func() {
		if opened++; opened == 20 {
			c.nc.Close()
		}
	}})
	c.ok("SELECT INBOX")
	c.send("x SEARCH TEXT nothing\r\n")
	<-c.done
	if opened < 20 || opened >= messages {
		t.Errorf("%d of %d messages were opened", opened, messages)
	}
}

// A STORE that changes nothing is over with its answer: no FETCH tells the flags again for it.
func TestStoreOfNothing(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", "x\r\n")
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.ok("STORE 1 FLAGS.SILENT (\\Seen)")
	c.ok("NOOP")
	c.want("STORE 1 -FLAGS.SILENT (\\Flagged kw)", "OK")
	c.want("FETCH 1 BODY[]", "OK", "* 1 FETCH (BODY[] {3}x\r\n)")
	c.want("STORE 1 +FLAGS (\\Seen)", "OK", `* 1 FETCH (FLAGS (\Seen \Recent))`)
	c.want("FETCH 1 BODY[]", "OK", "* 1 FETCH (BODY[] {3}x\r\n)")
}

// A saved result that is empty, or whose messages are gone, names no message, and not all
// (RFC 5182, Section 2.1).
func TestSavedNothing(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	must(t, b.CreateFolder("Else", ""))
	r.fill(b, 3)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.ok(`STORE 1:* +FLAGS (\Deleted)`)
	for _, save := range []string{"NOOP", "SEARCH RETURN (SAVE) SEEN", "UID EXPUNGE 1:2"} {
		if save == "UID EXPUNGE 1:2" {
			c.ok("UID SEARCH RETURN (SAVE) UID 1:2")
		}
		c.ok("%s", save)
		for _, command := range []string{"UID EXPUNGE $", "UID MOVE $ Else", "MOVE $ Else", "COPY $ Else", "FETCH $ UID", "UID FETCH $ BODY[]", "STORE $ FLAGS ()", "UID STORE $ -FLAGS (\\Deleted)"} {
			c.want(command, "OK")
		}
		c.want("SEARCH RETURN () $", "OK", fmt.Sprintf(`* ESEARCH (TAG "t%d")`, c.n+1))
		c.want("UID SEARCH $", "OK", "* SEARCH")
		c.want("SORT (ARRIVAL) UTF-8 $", "OK", "* SORT")
		c.want("THREAD REFERENCES UTF-8 $", "OK", "* THREAD")
	}
	c.want("STATUS Else (MESSAGES)", "OK", "* STATUS Else (MESSAGES 0)")
	c.want("FETCH 1:* FLAGS", "OK", `* 1 FETCH (FLAGS (\Deleted \Recent))`)
}

package maildir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"waypost/backend/mailbox"
)

func TestParseExtra(t *testing.T) {
	for text, want := range map[string]Extra{"+10%": {Percent: 10}, "+0": {}, "+50000000": {Bytes: 50000000}} {
		if got, err := ParseExtra(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "10%", "+%", "+-5", "+x", "+1001%", "-10%", "+99999999999999999999"} {
		if got, err := ParseExtra(text); err == nil {
			t.Errorf("%q is taken as %+v", text, got)
		}
	}
}

// TestTrashTakesMore: who is over quota can delete by copying to the trash.
func TestTrashTakesMore(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.Extra = map[string]Extra{"Trash": {Percent: 50}} })
	must(t, s.b.CreateFolder("Trash", ""))
	must(t, s.b.CreateFolder("Other", ""))
	for i := range 4 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	s.limit = mailbox.Limit{Messages: 4}
	f := s.folder("INBOX")
	if _, err := f.Copy([]mailbox.UID{1}, "Other"); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal("copied elsewhere:", err)
	}
	if _, err := f.Copy([]mailbox.UID{1, 2}, "Trash"); err != nil {
		t.Fatal("not copied to the trash:", err)
	}
	if _, err := f.Copy([]mailbox.UID{3}, "Trash"); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal("the trash takes more than the rule says:", err)
	}
}

// TestWarnings: each threshold is told once when it is crossed upwards, the highest
// of several alone, and again after it was left.
func TestWarnings(t *testing.T) {
	var told []int
	s := newSetup(t, func(o *Options) {
		o.Warnings = []int{50, 80, 95}
		o.Warn = func(percent int, _ mailbox.Usage, _ mailbox.Limit) { told = append(told, percent) }
	})
	s.limit = mailbox.Limit{Messages: 10}
	for i := range 10 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	sameList(t, "told", told, 50, 80, 95)
	_, err := s.folder("INBOX").Expunge([]mailbox.UID{1, 2, 3})
	must(t, err)
	s.append("INBOX", text(11), mailbox.Flags{})
	sameList(t, "told again", told, 50, 80, 95, 80)
}

func TestUTF8Folders(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.UTF8Folders = true })
	for folder, dir := range map[string]string{"Entwürfe/Süd": ".Entwürfe.Süd", "A&B": ".A&-B", "plain": ".plain"} {
		must(t, s.b.CreateFolder(folder, ""))
		if _, err := os.Stat(filepath.Join(s.root, "Maildir", dir)); err != nil {
			t.Errorf("%s: %v", folder, err)
		}
		if _, err := s.b.Folder(folder); err != nil {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

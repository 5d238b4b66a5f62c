package mailbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestUses(t *testing.T) {
	uses, err := ParseUses(map[string][]string{"sent": {"Sent", "Gesendet", "Both"}, `\Trash`: {"Müll", "Both"}, "Junk": nil})
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"INBOX Gesendet Sent": `INBOX Gesendet Sent\Sent`,
		"INBOX Gesendet":      `INBOX Gesendet\Sent`,
		"INBOX Both":          `INBOX Both\Sent`, // one use for each folder
		"Both Sent Müll":      `Both Sent\Sent Müll\Trash`,
		"Both Sent":           `Both\Trash Sent\Sent`,
		`Out\Sent Sent`:       `Out\Sent Sent`, // somebody has said it
		`Sent\Drafts`:         `Sent\Drafts`,
		`Sent! Gesendet`:      `Sent! Gesendet\Sent`, // only a parent of others
		"sent Junk":           "sent Junk",
	} {
		var list []FolderInfo
		for _, word := range strings.Fields(in) {
			name, use, marked := strings.Cut(word, `\`)
			if marked {
				use = `\` + use
			}
			bare := strings.TrimSuffix(name, "!")
			list = append(list, FolderInfo{Name: bare, SpecialUse: use, NoSelect: bare != name})
		}
		uses.Mark(list)
		var got []string
		for _, info := range list {
			mark := ""
			if info.NoSelect {
				mark = "!"
			}
			got = append(got, info.Name+mark+info.SpecialUse)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", in, strings.Join(got, " "), want)
		}
	}
	for _, bad := range []map[string][]string{{"Flagged": {"x"}}, {"": {"x"}}, {"Sent": {""}}, {"Sent": {"Inbox"}}} {
		if _, err := ParseUses(bad); !errors.Is(err, ErrUse) && !errors.Is(err, ErrBadName) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := ParseUses(UsualUses()); err != nil {
		t.Error(err)
	}
	list := []FolderInfo{{Name: "Spam"}, {Name: "Junk"}, {Name: "Deleted Items"}}
	UsualUses().Mark(list)
	if got := fmt.Sprint(list[0].SpecialUse, list[1].SpecialUse, list[2].SpecialUse); got != `\Junk\Trash` {
		t.Error(got)
	}
}

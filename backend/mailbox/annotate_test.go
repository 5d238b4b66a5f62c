package mailbox

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRights(t *testing.T) {
	for letters, want := range map[string]Rights{
		"": "", "srl": "lrs", "lll": "l", "aetxkpiwsrl": AllRights, "c": "kx", "d": "xte", "cd": "kxte",
	} {
		if got, ok := ParseRights(letters); got != want || !ok {
			t.Errorf("%q: %q %v, want %q", letters, got, ok, want)
		}
	}
	for _, bad := range []string{"L", "lq", "l ", "é"} {
		if got, ok := ParseRights(bad); ok {
			t.Errorf("%q: %q", bad, got)
		}
	}
	if !AllRights.Has('x') || Rights("lr").Has('x') {
		t.Error("Has")
	}
}

func TestCheckMetadata(t *testing.T) {
	text, sent, none := "x", `\sEnT`, ""
	c, err := CheckMetadata("A", map[string]*string{"/Shared/A": &text, "/private/b": nil, "/PRIVATE/SpecialUse": &sent})
	if err != nil || len(c.Set) != 2 || c.Set["/shared/a"] != &text || c.Use != `\Sent` || !c.SetsUse {
		t.Fatalf("%+v %v", c, err)
	}
	for _, clear := range []*string{nil, &none} {
		if c, err := CheckMetadata("", map[string]*string{UseEntry: clear}); err != nil || !c.SetsUse || c.Use != "" {
			t.Fatalf("%+v %v", c, err)
		}
	}
	if _, err := CheckMetadata(Inbox, map[string]*string{UseEntry: &sent}); !errors.Is(err, ErrUse) {
		t.Error(err)
	}
	for _, bad := range []string{"", strings.Repeat("x", MaxMetadataName+1)} {
		if _, err := CheckMetadata("A", map[string]*string{bad: &text}); !errors.Is(err, ErrTooMuchMetadata) {
			t.Error(err)
		}
	}
}

package control

import (
	"encoding/json"
	"testing"
)

func FuzzTreePath(f *testing.F) {
	for _, s := range []string{"", "Maildir/cur/1.M2P3.host,S=4,W=5:2,S", "Maildir/.Gr\xfc\xdfe/cur/", "\xff", "a\x00b", "<&>\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 0 && s[0] == 0 {
			return // no path begins with NUL
		}
		b, err := json.Marshal(TreePath(s))
		if err != nil {
			t.Fatal(err)
		}
		var back TreePath
		if err := json.Unmarshal(b, &back); err != nil || string(back) != s {
			t.Errorf("%q became %q (%v)", s, back, err)
		}
	})
}

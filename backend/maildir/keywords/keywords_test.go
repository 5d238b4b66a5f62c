package keywords

import (
	"errors"
	"fmt"
	"testing"
)

func TestAdd(t *testing.T) {
	table, bad := Parse([]byte("0 $Forwarded\n2 NonJunk\nx\n1 \n2 Again\n30 Far\n"))
	if bad != 4 {
		t.Errorf("bad = %d", bad)
	}
	none := func(byte) bool { return false }
	if l, changed, err := table.Add("nonjunk", none); l != 'c' || changed || err != nil {
		t.Errorf("known word: %c %v %v", l, changed, err)
	}
	// b has no meaning, but a message carries it.
	if l, changed, err := table.Add("Work", func(l byte) bool { return l == 'b' }); l != 'd' || !changed || err != nil {
		t.Errorf("new word: %c %v %v", l, changed, err)
	}
	if got := string(table.Format()); got != "0 $Forwarded\n2 NonJunk\n3 Work\n" {
		t.Errorf("file %q", got)
	}
	if _, _, err := table.Add("a b", none); !errors.Is(err, ErrBadKeyword) {
		t.Errorf("bad word: %v", err)
	}
}

func TestFull(t *testing.T) {
	var table Table
	all := func(byte) bool { return true }
	for i := range Max {
		if _, _, err := table.Add(fmt.Sprintf("k%d", i), func(l byte) bool { return int(l-'a') < i }); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := table.Add("more", all); !errors.Is(err, ErrTooMany) {
		t.Errorf("full: %v", err)
	}
	if l, _, err := table.Add("more", func(l byte) bool { return l != 'f' }); l != 'f' || err != nil {
		t.Errorf("room of an unused word: %c %v", l, err)
	}
	if table.Letter("k5") != 0 || table.Word('f') != "more" {
		t.Error("the unused word is still there")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("0 $Forwarded\n2 NonJunk\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, _ := Parse(data)
		again, bad := Parse(table.Format())
		if bad != 0 || again != table {
			t.Fatalf("%q: %d bad, %+v became %+v", data, bad, table, again)
		}
	})
}

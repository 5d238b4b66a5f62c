package restore

import (
	"fmt"
	"strings"
	"testing"

	"waypost/director"
)

// parse reads fences like "b1 serving 7, b2 gone 5".
func parse(t *testing.T, text string) map[director.BackendID]Fence {
	t.Helper()
	fences := map[director.BackendID]Fence{}
	for part := range strings.SplitSeq(text, ", ") {
		if part == "" {
			continue
		}
		var id director.BackendID
		var f Fence
		if _, err := fmt.Sscan(part, &id, &f.State, &f.Epoch); err != nil {
			t.Fatal(part, err)
		}
		fences[id] = f
	}
	return fences
}

func record(t *testing.T, text string) *director.Record {
	t.Helper()
	if text == "" {
		return nil
	}
	r, err := director.DecodeRecord([]byte("1 " + text))
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestDecide(t *testing.T) {
	for _, row := range []struct {
		name, record, fences, silent string
		account                      bool
		want                         string // a record, "closed EPOCH", "closed" and a record, or "none"
		why                          string
	}{
		{"a record that no fence is above", "b1 7 active", "b1 serving 7", "", true, "b1 8 active", ""},
		{"a home that lags", "b1 7 active", "b1 serving 5", "", true, "b1 8 active", ""},
		{"a flip that the target has not seen", "b2 7 active", "b1 frozen 6, b2 sealed 6", "", true, "b2 8 active", ""},
		{"a flip that the source has not seen", "b2 7 active", "b1 frozen 6, b2 serving 7", "", true, "b2 8 active", ""},
		{"a move under way is rolled back", "b1 6 busy b2", "b1 frozen 6, b2 sealed 6", "", true, "b1 7 active", ""},
		{"also before the freeze", "b1 6 busy b2", "b1 serving 5, b2 incoming 6", "b2", true, "b1 7 active", ""},
		{"unless its target may have flipped", "b1 6 busy b2", "b1 frozen 6", "b2", true, "closed 1", "b2"},
		{"or its home is away", "b1 6 busy b2", "b2 sealed 6", "b1", true, "closed 1", "b1"},
		{"a home that is away keeps its record", "b1 7 active", "", "b1", true, "b1 8 active", "b1 did not answer"},
		{"a home without a mailbox", "b1 7 active", "b2 gone 5", "", true, "closed b1 8 active", "backup"},
		{"nor is one elsewhere that may be older", "b1 7 active", "b2 serving 5", "", true, "closed 5", "backup"},
		{"a tombstone", "b1 7 deleted", "b1 serving 6", "", false, "b1 8 deleted", ""},
		{"a foreign home", "d1 3 active", "", "", true, "d1 4 active", ""},

		{"the directory went back: moved since", "b1 5 active", "b1 gone 7, b2 serving 7", "", true, "b2 8 active", ""},
		{"went back: moved, and the source was away", "b1 5 active", "b1 frozen 6, b2 serving 7", "", true, "b2 8 active", ""},
		{"went back: frozen now, target known", "b1 1 active", "b1 frozen 6, b2 sealed 6", "b3", true, "b1 7 active", ""},
		{"went back: frozen, target let go", "b1 1 active", "b1 frozen 6, b2 gone 7", "b3", true, "b1 8 active", ""},
		{"went back: frozen, target not known", "b1 1 active", "b1 frozen 6", "b3", true, "closed 1", "b3"},
		{"all answered: nobody else has it", "b1 1 active", "b1 frozen 6", "", true, "b1 7 active", ""},
		{"frozen, and somebody let go much later", "", "b1 frozen 6, b2 gone 9", "", true, "closed 6", "between"},
		{"went back: deleted since, and made again", "b1 3 deleted", "b2 serving 6", "", true, "b2 7 active", ""},
		{"deleted at the record, the home lags", "b1 9 deleted", "b1 serving 8, b2 gone 12", "", false, "b1 13 deleted", ""},

		{"went back into a move, which was rolled back: it had flipped", "b1 7 active", "b1 gone 7, b2 serving 7", "", true, "b2 8 active", ""},
		{"the same, and the source had not seen it", "b1 7 active", "b1 frozen 6, b2 serving 7", "", true, "b2 8 active", ""},
		{"the same, and both have served", "b1 7 active", "b1 serving 7, b2 serving 7", "", true, "closed 7", "both serve"},
		{"the same, and the target is in another move", "b1 8 busy b2", "b1 frozen 8, b2 frozen 8", "", true, "closed 8", "both froze"},

		{"fences alone", "", "b1 serving 4, b3 gone 3", "", true, "b1 5 active", ""},
		{"a target came back from an undone move", "", "b1 serving 4, b2 gone 6", "", true, "b1 7 active", ""},
		{"two serve at one epoch", "", "b1 serving 4, b2 serving 4", "", true, "closed 4", "both serve"},
		{"the higher serves", "", "b1 serving 4, b2 serving 6", "", true, "b2 7 active", "b1 has an older mailbox"},
		{"serves and froze at one epoch", "", "b1 serving 6, b2 frozen 6", "", true, "closed 6", "same"},
		{"froze above one that serves", "", "b1 serving 4, b2 frozen 6", "", true, "b2 7 active", ""},
		{"sealed above one that serves", "", "b1 serving 4, b2 sealed 5", "", true, "closed 4", "went back"},
		{"two froze at one epoch", "", "b1 frozen 4, b2 frozen 4", "", true, "closed 4", "both froze"},
		{"two sealed at one epoch", "", "b1 sealed 4, b2 sealed 4", "", true, "closed 4", "both sealed"},
		{"sealed, the source let go by the flip", "", "b1 gone 5, b2 sealed 4", "b3", true, "b2 6 active", ""},
		{"sealed, the source is away", "", "b2 sealed 4", "b1", true, "closed 1", "b1"},
		{"sealed, and nobody else", "", "b2 sealed 4", "", true, "b2 5 active", ""},
		{"never published", "", "b2 sealed 0", "", false, "none", "prepared"},
		{"published, and never looked at", "", "b2 sealed 0", "", true, "b2 1 active", ""},
		{"prepared twice", "", "b1 sealed 0, b2 sealed 0", "", true, "none", "prepared"},
		{"only gone: it was deleted", "", "b1 gone 3, b2 gone 8", "", false, "b2 9 deleted", ""},
		{"only gone, with an account", "", "b1 gone 3", "", true, "closed b1 4 active", "backup"},
		{"deleted since the directory went back to", "b1 1 active", "b1 gone 4, b2 gone 3", "", true, "closed b1 5 active", "delete"},
		{"an account, and nothing else", "", "", "", true, "closed 1", "backup"},
		{"only gone, and somebody is away", "", "b1 gone 3", "b2", false, "closed 1", "b2"},
		{"a fence that cannot be read", "b1 3 active", "b1 unreadable 0, b2 serving 7", "", true, "closed 7", "cannot be read"},
		{"an earlier run left it closed", "_undecided 4 busy _nobody", "b1 serving 4, b2 gone 5", "", true, "b1 6 active", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := World{Silent: map[director.BackendID]bool{}, Foreign: map[director.BackendID]bool{"d1": true}}
			if row.silent != "" {
				w.Silent[director.BackendID(row.silent)] = true
			}
			got := Decide(w, Claims{Record: record(t, row.record), Account: row.account, Fences: parse(t, row.fences)})
			want := row.want
			if e, closed := strings.CutPrefix(want, "closed "); closed && strings.Contains(e, " ") {
				want = "1 " + e
			} else if closed {
				want = "1 _undecided " + e + " busy _nobody"
			} else if want != "none" {
				want = "1 " + want
			}
			have := got.Record.String()
			if got.Verdict == None {
				have = "none"
			}
			if have != want || (got.Verdict == Closed) != strings.HasPrefix(row.want, "closed") {
				t.Errorf("%s: %q, want %q (%s)", got.Verdict, have, want, got.Why)
			}
			if row.why == "" && got.Why != "" || !strings.Contains(got.Why, row.why) {
				t.Errorf("why: %q, want %q in it", got.Why, row.why)
			}
		})
	}
}

func TestForce(t *testing.T) {
	c := Claims{Record: record(t, "b1 3 active"), Fences: parse(t, "b1 serving 4, b2 serving 4, b3 incoming 9")}
	d, err := Force(c, "b2")
	if err != nil || d.Record.String() != "1 b2 10 active" {
		t.Errorf("%q, %v", d.Record, err)
	}
	for _, id := range []director.BackendID{"b3", "b4"} {
		if d, err := Force(c, id); err == nil {
			t.Errorf("%s: %q", id, d.Record)
		}
	}
}

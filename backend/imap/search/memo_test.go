package search

import (
	"testing"

	"waypost/backend/imap/order"
	"waypost/backend/mailbox"
)

// remembering is a folder that is a HeaderView and a ValueView.
type remembering struct {
	quick
	known map[order.Key][]Known
	asked int
}

func (r *remembering) Values(k order.Key) []Known { return r.known[k] }

func (r *remembering) Remember(k order.Key, all []Known) {
	r.asked++
	r.known[k] = all
}

// TestMemo: what SORT remembers changes no answer, is asked for once, and does not grow without
// end.
func TestMemo(t *testing.T) {
	plain := corpus(t, 200)
	v := &remembering{quick: quick{plain}, known: map[order.Key][]Known{}}
	for _, command := range []string{
		"SORT (SUBJECT) UTF-8 2:9,50:60", "SORT (SUBJECT DATE) UTF-8 1:55", "SORT (REVERSE SUBJECT SIZE) UTF-8 ALL", "UID SORT (FROM) UTF-8 ALL",
		"SORT (TO CC DATE) UTF-8 ALL", "SORT (DISPLAYFROM ARRIVAL) UTF-8 ALL", "SORT (DISPLAYTO) UTF-8 ALL", "SORT (DATE DATE) UTF-8 ALL",
	} {
		want := answer(t, plain, command, Options{})
		for range 2 {
			if got := answer(t, v, command, Options{}); got != want {
				t.Errorf("%s:\n%s\nwant\n%s", command, got, want)
			}
		}
		asked := v.asked
		answer(t, v, command, Options{})
		if v.asked != asked {
			t.Errorf("%s: found out anew", command)
		}
	}
	for k, all := range v.known {
		if len(all) != plain.Len() {
			t.Errorf("key %d: %d values of %d messages", k, len(all), plain.Len())
		}
		for i := 1; i < len(all); i++ {
			if all[i-1].UID >= all[i].UID {
				t.Fatalf("key %d: UIDs do not rise", k)
			}
		}
	}
	// Of messages that are gone.
	gone := make([]Known, 2000)
	for i := range gone {
		gone[i].UID = mailbox.UID(100_000 + i)
	}
	v.known[order.Subject] = gone
	want := answer(t, plain, "SORT (SUBJECT) UTF-8 ALL", Options{})
	if got := answer(t, v, "SORT (SUBJECT) UTF-8 ALL", Options{}); got != want || len(v.known[order.Subject]) != plain.Len() {
		t.Errorf("%d values", len(v.known[order.Subject]))
	}
}

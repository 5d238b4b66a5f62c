package search

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// odd are the corpus's messages, by number, of which Dovecot has another opinion, and why. Among
// made messages there are none.
func odd(f *folder) map[int]string {
	why := map[int]string{
		// RFC 5322's year has to be 1900 or more, so they have no date: no SENT key is
		// for them. Dovecot takes the sent date of such a message for 1970.
		1704: "Date: 2002/09/14 Sat", 1712: "Date: 2002/09/14 Sat",
		// The date of asctime is one to us.
		1706: "Date: Sat Sep 21 08:18:08 2002",
		1618: "To: ... the same",
		1603: "To: <Undisclosed-Recipient:;@...>: Dovecot searches in addresses as it would write them",
		1684: "the delimiters have a space too much: one text to us, none to Dovecot",
		1855: "To: undisclosed-recipients:; has the group's name to us (RFC 5256, Section 3), nothing to Dovecot",
		1624: "To: <C:`Bulk.AdzNortonsoftware.txt@...>: the name of a group, or no address",
		1452: `From: "jobfair24 " <...>: a space at the end of a name`,
	}
	// What is 8-bit and not UTF-8 reads as Windows-1252 to us, as U+FFFD to Dovecot.
	for _, n := range []int{1797, 1947, 1989, 1998} {
		why[n] = "8-bit header"
	}
	// From: "" Angles " Puglisi": quotes that do not fit make another name.
	for _, n := range []int{213, 752, 852, 1029, 1276, 1280, 1345} {
		why[n] = "quotes in From"
	}
	year102 := regexp.MustCompile(`(?m)^Date: .* 0102 `)
	for i, b := range f.bodies {
		if year102.Match(b[:f.metas[i].Root.Header.End]) {
			why[i+1] = "Date: ... 0102"
		}
	}
	return why
}

// but leaves the odd ones out of a number list.
func but(odd map[int]string, line string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(line), func(w string) bool {
		n, err := strconv.Atoi(w)
		return err == nil && odd[n] != ""
	}), " ")
}

// plainMail is a set of all messages but the odd ones.
func plainMail(f *folder, odd map[int]string) string {
	var set []string
	for i := range f.list {
		if odd[i+1] == "" {
			set = append(set, strconv.Itoa(i+1))
		}
	}
	return strings.Join(set, ",")
}

// factored tells a query that Dovecot 2.3 gets wrong: "OR (SEEN FROM x) NOT (SEEN FROM y)" finds
// nothing there where nothing is seen, for it takes out what both sides of an OR begin with, also
// from under a NOT.
func factored(q string) bool {
	_, both, _ := strings.Cut(q, "OR (")
	first, second, ok := strings.Cut(both, " NOT (")
	a, b := strings.Fields(first), strings.Fields(second)
	return ok && len(a) > 1 && len(b) > 1 && a[0] == b[0] && a[1] == b[1]
}

func TestLikeDovecot(t *testing.T) {
	f := corpus(t, 2000)
	d := startDovecot(t, f)
	odd := odd(f)
	n := 200
	if testing.Short() {
		n = 50
	}
	for _, q := range queries(f, n) {
		theirs := but(odd, d.give("SEARCH " + q)[0])
		ours := but(odd, answer(t, quick{f}, "SEARCH "+q, Options{}))
		if ours != theirs && !factored(q) {
			t.Errorf("%s\nours   %.300s\ntheirs %.300s", q, ours, theirs)
		}
	}
	set := plainMail(f, odd)
	for _, q := range []string{
		"SORT (ARRIVAL) UTF-8 %s", "SORT (DATE) UTF-8 %s", "SORT (SUBJECT) UTF-8 %s", "SORT (FROM) UTF-8 %s",
		"SORT (TO) UTF-8 %s", "SORT (CC) UTF-8 %s", "SORT (SIZE) UTF-8 %s", "SORT (DISPLAYFROM) UTF-8 %s", "SORT (DISPLAYTO) UTF-8 %s",
		"SORT (REVERSE SUBJECT DATE) UTF-8 %s", "UID SORT (FROM REVERSE SIZE) UTF-8 %s SEEN",
		"SORT RETURN (MIN MAX COUNT) (SUBJECT) UTF-8 %s", "SORT RETURN (ALL) (REVERSE DATE) UTF-8 %s SEEN", "SORT RETURN (PARTIAL 3:17) (SUBJECT) UTF-8 %s",
		"SEARCH RETURN () %s SEEN", "SEARCH RETURN (MIN MAX COUNT ALL) %s DELETED", "SEARCH RETURN (COUNT) SUBJECT zzzz %s", "SEARCH RETURN (PARTIAL 5:500) UNSEEN %s",
		"SEARCH RETURN (SAVE) SEEN %s",
		"THREAD ORDEREDSUBJECT UTF-8 %s", "THREAD REFERENCES UTF-8 %s", "THREAD REFS UTF-8 %s",
		"THREAD REFERENCES UTF-8 %s SEEN", "THREAD REFS UTF-8 UNSEEN %s", "UID THREAD ORDEREDSUBJECT US-ASCII %s FLAGGED",
		"THREAD REFS UTF-8 SUBJECT nothing-like-that",
	} {
		q = strings.ReplaceAll(q, "%s", set)
		d.n = 0 // so that the tag is ours
		got := strings.Join(d.give(q), "")
		theirs := strings.TrimSpace(strings.Replace(got, `"t1"`, `"A1"`, 1)) // after THREAD it has a space too much
		if strings.HasPrefix(q, "UID") {
			theirs = tenfold(theirs)
		}
		if ours := answer(t, f, q, Options{}); ours != theirs {
			t.Errorf("%.70s\nours   %.300s\ntheirs %.300s", q, ours, theirs)
		}
	}
}

var number = regexp.MustCompile(`\b\d+\b`)

// tenfold makes Dovecot's UIDs those of a folder.
func tenfold(line string) string {
	return number.ReplaceAllStringFunc(line, func(n string) string { return n + "0" })
}

var word = regexp.MustCompile(`[A-Za-z]{4,12}`)

// queries makes searches of words that the messages have.
func queries(f *folder, n int) []string {
	r := rand.New(rand.NewPCG(3, 7))
	words := func(text string) string {
		all := word.FindAllString(text, -1)
		if len(all) == 0 {
			return "zzz"
		}
		return all[r.IntN(len(all))]
	}
	from := func() string {
		i := r.IntN(len(f.list))
		m := f.metas[i]
		field := func(name string) string {
			for _, v := range m.Fields {
				if v.Name == name {
					return words(v.Text())
				}
			}
			return "nothing"
		}
		day := func(t time.Time) string { return t.AddDate(0, 0, r.IntN(3)-1).Format("2-Jan-2006") }
		pick := func(keys ...string) string { return keys[r.IntN(len(keys))] }
		text := func() string { return words(string(f.bodies[i][m.Root.Body.Start:])) }
		switch r.IntN(15) {
		case 0, 1:
			return pick("SEEN", "UNSEEN", "ANSWERED", "UNANSWERED", "DELETED", "UNDELETED", "FLAGGED", "UNFLAGGED", "DRAFT", "UNDRAFT", "KEYWORD $Work", "UNKEYWORD $work", "ALL")
		case 2:
			return fmt.Sprintf("%s %d", pick("LARGER", "SMALLER"), f.list[i].WireSize+int64(r.IntN(3))-1)
		case 3:
			return fmt.Sprintf("%s %s", pick("BEFORE", "ON", "SINCE"), day(f.dates[i]))
		case 4:
			if m.Root.Envelope.Date.IsZero() {
				return "SENTBEFORE 1-Jan-1990"
			}
			return fmt.Sprintf("%s %s", pick("SENTBEFORE", "SENTON", "SENTSINCE"), day(m.Root.Envelope.Date))
		case 5, 6:
			return "SUBJECT " + field("subject")
		case 7:
			return "FROM " + field("from")
		case 8:
			return pick("TO ", "CC ", "BCC ") + field("to")
		case 9:
			name := pick("list-id", "references", "x-mailer", "content-type")
			return "HEADER " + name + " " + pick(`""`, field(name))
		case 10: // these cost both sides most of the test's time
			if r.IntN(2) == 0 {
				return "BODY " + text()
			}
			return "TEXT " + pick(text(), words(string(f.bodies[i])))
		case 11, 12:
			return "HEADER message-id " + field("message-id")
		case 13:
			a := r.IntN(len(f.list)) + 1
			return fmt.Sprintf("%d:%d", a, a+r.IntN(500))
		}
		return fmt.Sprintf("%s %d", pick("OLDER", "YOUNGER"), int(time.Since(f.dates[i]).Seconds())+300)
	}
	out := make([]string, n)
	for i := range out {
		switch q := from(); i % 6 {
		case 1:
			out[i] = "NOT " + q
		case 2:
			out[i] = "OR " + q + " " + from()
		case 3:
			out[i] = q + " " + from()
		case 4:
			out[i] = fmt.Sprintf("OR (%s %s) NOT (%s OR %s %s)", q, from(), from(), from(), from())
		default:
			out[i] = q
		}
		if strings.Contains(out[i], "NOT") && strings.Count(out[i], "OLDER")+strings.Count(out[i], "YOUNGER") > 1 {
			// Dovecot 2.3 takes NOT (OR OLDER 5 OLDER 9) for NOT OLDER 9, and NOT (OLDER 5
			// OLDER 9) for NOT OLDER 5: where it simplifies, it forgets the NOT.
			out[i] = "ALL"
		}
	}
	return out
}

package search

import (
	"bytes"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/imap/collate"
	"waypost/backend/imap/order"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// naive decides a key by looking at everything, in the order in which keys stand.
func naive(f *folder, k *key, i int, now time.Time) bool {
	m := &f.list[i]
	within := func(t time.Time) bool {
		day := t.Format("2006-01-02")
		return (k.since.IsZero() || day >= k.since.Format("2006-01-02")) && (k.before.IsZero() || day < k.before.Format("2006-01-02"))
	}
	switch k.kind {
	case kAnd:
		return !slices.ContainsFunc(k.kids, func(k *key) bool { return !naive(f, k, i, now) })
	case kOr:
		return slices.ContainsFunc(k.kids, func(k *key) bool { return naive(f, k, i, now) })
	case kNot:
		return !naive(f, k.kids[0], i, now)
	case kSet:
		return slices.ContainsFunc(f.Resolve(k.set, k.byUID), func(s Span) bool { return s.Lo <= i && i < s.Hi })
	case kFlag:
		return m.Flags.System&k.flag != 0
	case kKeyword:
		return slices.Contains(m.Flags.Keywords, k.name)
	case kRecent:
		return f.recent[m.UID]
	case kLarger:
		return int64(len(f.bodies[i])) > k.n
	case kSmaller:
		return int64(len(f.bodies[i])) < k.n
	case kModSeq:
		return m.ModSeq >= uint64(k.n)
	case kArrived:
		return within(f.dates[i])
	case kOlder:
		return !f.dates[i].After(now.Add(-time.Duration(k.n) * time.Second))
	case kYounger:
		return !f.dates[i].Before(now.Add(-time.Duration(k.n) * time.Second))
	case kEmailID:
		return m.GUID == k.name
	case kSent:
		for _, field := range header(f.bodies[i]) {
			if field.Name == "date" {
				sent := order.Sent(field.Value)
				return !sent.IsZero() && within(sent)
			}
		}
		return false
	case kHeader:
		return slices.ContainsFunc(header(f.bodies[i]), func(field mime.Field) bool {
			return field.Name == k.name && strings.Contains(collate.Key(field.Value), k.text)
		})
	case kBody, kText:
		return naiveText(f, k, i)
	}
	return k.kind == kAll
}

func header(body []byte) []mime.Field {
	fields, err := mime.Fields(bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	return fields
}

func naiveText(f *folder, k *key, i int) (found bool) {
	if k.text == "" {
		return true
	}
	f.metas[i].Root.Walk(func(p *mime.Part) {
		if k.kind == kText {
			for _, field := range header(f.bodies[i][p.Header.Start:p.Header.End]) {
				found = found || strings.Contains(collate.Key(field.Name+": "+field.Value), k.text)
			}
		}
		if p.Type == "text" || p.Type == "message" && p.Message == nil {
			text, err := io.ReadAll(p.Text(bytes.NewReader(f.bodies[i][p.Body.Start:p.Body.End])))
			if err != nil {
				panic(err)
			}
			found = found || strings.Contains(collate.Key(string(text)), k.text)
		}
	})
	return found
}

// someKey draws a key that has a chance to match some of the messages and not others.
func someKey(t *rapid.T, f *folder, depth int) *key {
	kinds := 15
	if depth > 0 {
		kinds = 21
	}
	i := rapid.IntRange(0, len(f.list)-1).Draw(t, "message")
	word := func(b []byte) string {
		words := strings.Fields(string(b[:min(len(b), 4000)]))
		if len(words) == 0 {
			return "x"
		}
		return rapid.SampledFrom(words).Draw(t, "word")
	}
	day := func(k kind, at time.Time) *key {
		y, m, d := at.Date()
		key := &key{kind: k, since: time.Date(y, m, d, 0, 0, 0, 0, time.UTC)}
		if rapid.Bool().Draw(t, "before") {
			key.since, key.before = time.Time{}, key.since
		}
		return key
	}
	value := func() (name, text string) {
		field := rapid.SampledFrom(append(header(f.bodies[i]), mime.Field{Name: "x-none", Value: "nothing"})).Draw(t, "field")
		return field.Name, word([]byte(field.Value))
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return &key{kind: kFlag, flag: rapid.SampledFrom([]mailbox.System{mailbox.Seen, mailbox.Draft, mailbox.Deleted}).Draw(t, "flag")}
	case 1:
		return &key{kind: kKeyword, name: "$Work"}
	case 2:
		return &key{kind: kRecent}
	case 3:
		return &key{kind: kLarger, n: f.list[i].WireSize - 1}
	case 4:
		return &key{kind: kSmaller, n: f.list[i].WireSize}
	case 5:
		return &key{kind: kModSeq, n: int64(f.list[i].ModSeq)}
	case 6:
		return day(kArrived, f.dates[i])
	case 7:
		return day(kSent, f.metas[i].Root.Envelope.Date)
	case 8:
		return &key{kind: rapid.SampledFrom([]kind{kOlder, kYounger}).Draw(t, "side"), n: 86400 * int64(i)}
	case 9:
		return &key{kind: kEmailID, name: f.list[i].GUID}
	case 10, 11, 12:
		name, text := value()
		return &key{kind: kHeader, name: name, text: collate.Key(text)}
	case 13:
		return &key{kind: kBody, text: collate.Key(word(f.bodies[i][f.metas[i].Root.Body.Start:]))}
	case 14:
		return &key{kind: kText, text: collate.Key(word(f.bodies[i]))}
	case 15:
		return &key{kind: kNot, kids: []*key{someKey(t, f, depth-1)}}
	case 16, 17, 18:
		return &key{kind: kOr, kids: []*key{someKey(t, f, depth-1), someKey(t, f, depth-1)}}
	}
	and := &key{kind: kAnd}
	for range rapid.IntRange(1, 4).Draw(t, "keys") {
		and.kids = append(and.kids, someKey(t, f, depth-1))
	}
	return and
}

// TestLikeNaive: whatever the keys, Run finds what naive finds.
func TestLikeNaive(t *testing.T) {
	f := corpus(t, 60)
	for i := range f.list {
		f.recent[f.list[i].UID] = i%4 == 0
	}
	now := arrivedAt(30)
	rapid.Check(t, func(t *rapid.T) {
		q := &Query{keys: &key{kind: kAnd, kids: []*key{someKey(t, f, 4)}}}
		var want []int
		for i := range f.list {
			if naive(f, q.keys, i, now) {
				want = append(want, i+1)
			}
		}
		for _, v := range []View{f, quick{f}} {
			res, err := q.Run(t.Context(), v, Env{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, h := range res.hits {
				got = append(got, int(h.index)+1)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", spell(q.keys), got, want)
			}
		}
	})
}

// spell writes a key as a client would.
func spell(k *key) string {
	var b strings.Builder
	e := syntax.NewEncoder(&b, syntax.Buffers())
	if k.kind != kAnd {
		k = &key{kind: kAnd, kids: []*key{k}}
	}
	(&Query{keys: k}).WriteKeys(e)
	_ = e.Flush() // a builder has no errors
	return b.String()
}

// What WriteKeys writes is parsed to what it was written of.
func TestWriteKeys(t *testing.T) {
	f := corpus(t, 60)
	for i := range f.list {
		f.list[i].GUID = strings.Repeat("x", i+1)
	}
	rapid.Check(t, func(t *rapid.T) {
		and := &key{kind: kAnd, kids: []*key{someKey(t, f, 4)}}
		impossible := and.any(func(k *key) bool {
			return (k.kind == kOlder || k.kind == kYounger) && k.n == 0 || k.kind == kSent && k.since.IsZero() && k.before.IsZero()
		})
		if impossible {
			return
		}
		q, err := parse("SEARCH "+spell(and), Options{})
		if err != nil {
			t.Fatalf("%s: %v", spell(and), err)
		}
		if !reflect.DeepEqual(q.keys, and) {
			t.Fatalf("%s is %s", spell(and), spell(q.keys))
		}
	})
	for _, keys := range []string{
		"ALL", "NEW", "OLD", "UNKEYWORD \\Foo", "ON 1-Feb-2003 SENTON 3-Feb-2003 SAVEDON 4-Dec-1999", "SAVEDATESUPPORTED", "THREADID T1", "UID 3:*,7,*", `MODSEQ "/flags/\\draft" all 5`,
		"SMALLER 9223372036854775807", "ANSWERED UNDELETED (OR FLAGGED (UNDRAFT SEEN) BCC {3+}\r\na\"b)", `HEADER "a b" "" TEXT "ä"`, "FUZZY BODY x",
	} {
		q, err := parse("SEARCH "+keys, Options{})
		if err != nil {
			t.Fatalf("%s: %v", keys, err)
		}
		again, err := parse("SEARCH "+spell(q.keys), Options{})
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%s is written %s: %v", keys, spell(q.keys), err)
		}
	}
	v := letters(t)
	for keys, want := range map[string]string{
		"2:3": "UID 20:30", "4:*,1": "UID 10,40", "9": "NOT ALL", "NOT $": "NOT UID 20:30", "OR 1 UID 1:*": "OR UID 10 UID 1:*",
	} {
		q, err := parse("SEARCH "+keys, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if ok := q.Fix(v); !ok || spell(q.keys) != want {
			t.Errorf("%s: %v %s, want %s", keys, ok, spell(q.keys), want)
		}
	}
}

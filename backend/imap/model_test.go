package imap

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
)

// copied is what a client that resynchronizes keeps of a message.
type copied struct {
	flags  string
	modSeq uint64
}

// copyOf is a client's copy of a folder, made from untagged responses alone, by UID: a client of
// QRESYNC (RFC 7162) or UIDONLY (RFC 9586), which may go away and come back.
type copyOf struct {
	r        *rig
	begin    func() *traveller
	tr       *traveller
	c        *client
	uidOnly  bool
	notified bool // messages come unasked (RFC 5465)
	away     bool

	uidValidity uint32
	highest     uint64
	exists      int
	msgs        map[uint32]copied
	numbers     []uint32 // UIDs by message number; 0: not known. Not with UIDONLY.

	live liveSearch
	hits map[uint32]bool // its result
}

// liveSearch is a search that is kept up to date (RFC 5267, Section 4.3).
type liveSearch struct {
	keys string
	// has says whether a message is in the result, last: it is the folder's last.
	has func(m *mailbox.Message, last bool) bool
	// last: that matters.
	last bool
}

// liveSearches are those that clients watch.
func liveSearches() []liveSearch {
	seen := func(m *mailbox.Message) bool { return m.Flags.System&mailbox.Seen != 0 }
	return []liveSearch{
		{"UNSEEN", func(m *mailbox.Message, _ bool) bool { return !seen(m) }, false},
		{"OR (KEYWORD kw DELETED) SEEN", func(m *mailbox.Message, _ bool) bool {
			return seen(m) || m.Flags.System&mailbox.Deleted != 0 && slices.Contains(m.Flags.Keywords, "kw")
		}, false},
		{"UID 5:* BODY answer", func(m *mailbox.Message, last bool) bool { return false }, false},
		{"OR UID 5:* SEEN", func(m *mailbox.Message, last bool) bool { return m.UID >= 5 || last || seen(m) }, true},
		{"NOT UID *", func(_ *mailbox.Message, last bool) bool { return !last }, true},
	}
}

// watch begins the search in the folder that was just selected.
func (p *copyOf) watch(t tb) {
	p.hits = make(map[uint32]bool)
	p.c.send("live UID SEARCH RETURN (UPDATE ALL) %s\r\n", p.live.keys)
	lines, st := p.c.until("live")
	if !strings.HasPrefix(st, "OK") {
		t.Fatalf("%s", st)
	}
	p.take(t, lines)
}

// watched takes what an ESEARCH says of the search.
func (p *copyOf) watched(t tb, l string) {
	t.Helper()
	for uid, added := range updated(t, l, `* ESEARCH (TAG "live") UID`) {
		if p.hits[uid] == added {
			t.Fatalf("%q, but it is %v", l, added)
		}
		p.hits[uid] = added
	}
}

// updated gives what an ESEARCH adds to a search's result and removes from it, in its order.
func updated(t tb, l, begin string) iter.Seq2[uint32, bool] {
	t.Helper()
	rest, ok := strings.CutPrefix(l, begin)
	words := strings.Fields(strings.NewReplacer("(0 ", "", ")", "").Replace(rest))
	if !ok || len(words)%2 == 1 {
		t.Fatalf("%q", l)
	}
	return func(yield func(uint32, bool) bool) {
		for ; len(words) > 0; words = words[2:] {
			for part := range strings.SplitSeq(words[1], ",") {
				first, last, more := strings.Cut(part, ":")
				lo, err := strconv.Atoi(first)
				hi := lo
				if more && err == nil {
					hi, err = strconv.Atoi(last)
				}
				if err != nil {
					t.Fatalf("%q: %v", l, err)
				}
				for n := lo; n <= hi; n++ {
					if !yield(uint32(n), words[0] != "REMOVEFROM") {
						return
					}
				}
			}
		}
	}
}

// connect dials and selects; a client that was there before resynchronizes.
func (p *copyOf) connect(t tb) {
	p.tr = p.begin()
	p.c = p.tr.client
	p.c.t = t
	if p.uidOnly {
		p.c.ok("ENABLE QRESYNC UIDONLY")
	} else {
		p.c.ok("ENABLE QRESYNC")
	}
	switch {
	case p.notified && p.uidOnly:
		p.c.ok("NOTIFY SET (selected (MessageNew (FLAGS MODSEQ) MessageExpunge FlagChange))")
	case p.notified:
		p.c.ok("NOTIFY SET (selected-delayed (MessageNew (UID FLAGS MODSEQ) MessageExpunge FlagChange))")
	}
	p.exists, p.numbers, p.hits, p.away = 0, nil, nil, false
	if p.uidValidity == 0 {
		p.take(t, p.c.ok("SELECT INBOX"))
	} else {
		p.take(t, p.c.ok("SELECT INBOX (QRESYNC (%d %d))", p.uidValidity, p.highest))
	}
	p.watch(t)
}

// leave goes away, as clients do: in order, or not.
func (p *copyOf) leave(t tb, logout bool) {
	if logout {
		p.take(t, p.c.ok("NOOP"))
		p.learn(t)
		p.c.cmd("LOGOUT")
	}
	p.c.nc.Close()
	p.away = true
}

func (p *copyOf) take(t tb, lines []string) {
	t.Helper()
	for _, l := range lines {
		p.one(t, l)
	}
}

func (p *copyOf) one(t tb, l string) {
	t.Helper()
	words := strings.Fields(l)
	if set, ok := strings.CutPrefix(l, "* VANISHED "); ok {
		set, earlier := strings.CutPrefix(set, "(EARLIER) ")
		p.vanish(t, set, earlier)
		return
	}
	if strings.HasPrefix(l, "* ESEARCH ") {
		p.watched(t, l)
		return
	}
	if strings.HasPrefix(l, "* NO ") {
		t.Fatalf("%q", l)
	}
	if strings.HasPrefix(l, "* OK [CLOSED]") {
		// Up to here responses were about the selection before (RFC 7162, Section 3.2.11).
		p.exists, p.numbers, p.hits = 0, nil, nil
	}
	if v, ok := strings.CutPrefix(l, "* OK [UIDVALIDITY "); ok {
		fmt.Sscanf(v, "%d", &p.uidValidity)
	}
	if len(words) < 3 {
		return
	}
	n, err := strconv.Atoi(words[1])
	if err != nil {
		return
	}
	switch words[2] {
	case "EXPUNGE":
		t.Fatalf("EXPUNGE with QRESYNC: %q", l)
	case "EXISTS":
		if n < p.exists {
			t.Fatalf("%q after %d", l, p.exists)
		}
		p.exists = n
		if !p.uidOnly {
			p.numbers = append(p.numbers, make([]uint32, n-len(p.numbers))...)
		}
	case "FETCH", "UIDFETCH":
		if (words[2] == "UIDFETCH") != p.uidOnly {
			t.Fatalf("uidonly %v: %q", p.uidOnly, l)
		}
		p.fetched(t, uint32(n), l)
	}
}

func (p *copyOf) fetched(t tb, n uint32, l string) {
	t.Helper()
	uid := n
	if !p.uidOnly {
		_, rest, ok := strings.Cut(l, "UID ")
		if _, err := fmt.Sscanf(rest, "%d", &uid); !ok || err != nil {
			t.Fatalf("no UID in %q", l) // RFC 7162, Section 3.2.4
		}
		if int(n) > len(p.numbers) || p.numbers[n-1] != 0 && p.numbers[n-1] != uid {
			t.Fatalf("%q, but the numbers are %v", l, p.numbers)
		}
		p.numbers[n-1] = uid
	}
	_, list, ok := strings.Cut(l, "FLAGS (")
	if !ok {
		return
	}
	list, _, _ = strings.Cut(list, ")")
	m := copied{flags: strings.TrimSpace(strings.ReplaceAll(list, `\Recent`, ""))}
	_, rest, ok := strings.Cut(l, "MODSEQ (")
	if _, err := fmt.Sscanf(rest, "%d", &m.modSeq); !ok || err != nil {
		t.Fatalf("no MODSEQ in %q", l)
	}
	p.msgs[uid] = m
}

func (p *copyOf) vanish(t tb, set string, earlier bool) {
	t.Helper()
	for part := range strings.SplitSeq(set, ",") {
		first, last, more := strings.Cut(part, ":")
		lo, err := strconv.Atoi(first)
		hi := lo
		if more && err == nil {
			hi, err = strconv.Atoi(last)
		}
		if err != nil || lo > hi {
			t.Fatalf("VANISHED %q", set)
		}
		for uid := uint32(lo); uid <= uint32(hi); uid++ {
			delete(p.msgs, uid)
			if earlier && slices.Contains(p.numbers, uid) {
				t.Fatalf("VANISHED (EARLIER) %d, which has a number: %v", uid, p.numbers)
			}
			if i := slices.Index(p.numbers, uid); i >= 0 {
				p.numbers = slices.Delete(p.numbers, i, i+1)
			} else if i := p.unknown(uid); i >= 0 && !earlier {
				p.numbers = slices.Delete(p.numbers, i, i+1)
			} else if !earlier && !p.uidOnly {
				t.Fatalf("VANISHED %d of %v", uid, p.numbers)
			}
			if p.hits[uid] {
				t.Fatalf("message %d is gone, and the search still has it", uid) // RFC 5267, Section 4.3.4
			}
			if !earlier {
				p.exists--
			}
		}
	}
}

// unknown finds the place of a UID whose number the client has not learned yet: UIDs rise.
func (p *copyOf) unknown(uid uint32) int {
	at := -1
	for i, is := range p.numbers {
		switch {
		case is > uid:
			return at
		case is != 0:
			at = -1
		case at < 0:
			at = i
		}
	}
	return at
}

// learn asks for what is new to the client: all above what it has.
func (p *copyOf) learn(t tb) {
	t.Helper()
	if len(p.msgs) == p.exists && !slices.Contains(p.numbers, 0) {
		return
	}
	p.take(t, p.c.ok("UID FETCH 1:* (FLAGS MODSEQ)"))
}

// settle compares the copy with the truth, after a NOOP.
func (p *copyOf) settle(t tb, folder mailbox.Folder) {
	t.Helper()
	if p.away {
		p.connect(t)
	}
	p.take(t, p.c.ok("NOOP"))
	// What came by a resynchronization is known without a question, numbers apart.
	if !p.uidOnly {
		p.take(t, p.c.ok("UID FETCH 1:* (UID)"))
	}
	p.learn(t)
	snap, err := folder.Snapshot()
	if err != nil {
		t.Fatalf("%v", err)
	}
	if snap.Messages.Len() != p.exists || len(p.msgs) != p.exists {
		t.Fatalf("%d messages, EXISTS %d, copy %v", snap.Messages.Len(), p.exists, p.msgs)
	}
	for i, m := range snap.Messages.All() {
		if got := p.msgs[uint32(m.UID)]; got.flags != words(m.Flags) || got.modSeq != m.ModSeq {
			t.Fatalf("message %d: %q %d, copy %+v", m.UID, words(m.Flags), m.ModSeq, got)
		}
		if !p.uidOnly && p.numbers[i] != uint32(m.UID) {
			t.Fatalf("message %d is %d, copy %v", i+1, m.UID, p.numbers)
		}
		if got, want := p.hits[uint32(m.UID)], p.live.has(m, i == snap.Messages.Len()-1); got != want {
			t.Fatalf("%s: message %d of UID %d, %q: %v", p.live.keys, i+1, m.UID, words(m.Flags), got)
		}
	}
	// From here on a resynchronization will start.
	p.highest = snap.HighestModSeq
}

// act has the client do something.
func (p *copyOf) act(t *rapid.T, action string) {
	uids := make([]uint32, 0, len(p.msgs))
	for uid := range p.msgs {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	if len(uids) == 0 {
		action = "append"
	}
	pick := func() uint32 { return rapid.SampledFrom(uids).Draw(t, "uid") }
	flag := rapid.SampledFrom([]string{`\Seen`, `\Deleted`, "kw"}).Draw(t, "flag")
	op := rapid.SampledFrom([]string{"+FLAGS", "-FLAGS", "FLAGS"}).Draw(t, "op")
	switch action {
	case "append":
		p.take(t, p.c.ok("APPEND INBOX {1+}\r\nx"))
	case "store":
		p.take(t, p.c.ok("UID STORE %d %s (%s)", pick(), op, flag))
	case "conditional":
		uid := pick()
		lines, st := p.c.cmd("UID STORE %d (UNCHANGEDSINCE %d) %s (%s)", uid, p.msgs[uid].modSeq, op, flag)
		p.take(t, lines)
		if !strings.HasPrefix(st, "OK") {
			t.Fatalf("%s", st)
		}
	case "expunge":
		p.take(t, p.c.ok("EXPUNGE"))
	case "fetch":
		p.take(t, p.c.ok("UID FETCH %d (FLAGS MODSEQ)", pick()))
	case "changed":
		p.take(t, p.c.ok("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d VANISHED)", p.highest))
	case "idle":
		p.c.send("i IDLE\r\nDONE\r\n")
		lines, st := p.c.until("i")
		if !strings.HasPrefix(st, "OK") {
			t.Fatalf("%s", st)
		}
		p.take(t, lines)
	}
}

// TestCopiesModel lets clients that resynchronize, the one with message numbers and the other
// without, work on one folder, go away and come back, in any order: what they know from
// untagged responses is the truth (RFC 7162, Section 3.2; RFC 9586; RFC 5465).
func TestCopiesModel(t *testing.T) {
	modelled(t, func(rt *rapid.T, r *rig, w world) {
		b := w.box()
		folder := folderOf(r.t, b, "INBOX")
		defer func() { b.Close() }()
		ends := cleanups{}
		defer ends.run()
		if rapid.Bool().Draw(rt, "filled") {
			r.fill(b, 40)
		}
		var copies []*copyOf
		for i := range 4 {
			begin := func() *traveller { return travelOn(r.t, w, r.srv, ends.add) }
			p := &copyOf{r: r, begin: begin, uidOnly: i%2 == 1, notified: i >= 2, msgs: make(map[uint32]copied)}
			p.live = rapid.SampledFrom(liveSearches()).Draw(rt, "search")
			p.connect(rt)
			p.settle(rt, folder)
			copies = append(copies, p)
		}
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			p := copies[rapid.IntRange(0, len(copies)-1).Draw(rt, "session")]
			action := rapid.SampledFrom([]string{"append", "store", "conditional", "expunge", "fetch", "changed", "idle",
				"settle", "deliver", "remove", "logout", "break", "reselect", "hop", "hop"}).Draw(rt, "action")
			switch action {
			case "settle":
				p.settle(rt, folder)
			case "deliver":
				r.deliver(b, "INBOX", letter)
			case "remove":
				snap, err := folder.Snapshot()
				if err == nil && snap.Messages.Len() > 0 {
					i := rapid.IntRange(0, snap.Messages.Len()-1).Draw(rt, "i")
					_, err = folder.Expunge([]mailbox.UID{snap.Messages.At(i).UID})
				}
				if err != nil {
					rt.Fatalf("%v", err)
				}
			case "logout", "break":
				if !p.away {
					p.leave(rt, action == "logout")
				}
			case "hop":
				var all []*traveller
				for _, p := range copies {
					if !p.away {
						all = append(all, p.tr)
					}
				}
				others := rapid.SliceOfN(rapid.SampledFrom([]string{"deliver", "flag", "expunge", "first"}), 0, 4).Draw(rt, "meanwhile")
				b.Close()
				hopAll(w, all, func(b mailbox.Box) { meanwhile(rt, r, b, others) })
				b = w.box()
				folder = folderOf(r.t, b, "INBOX")
			case "reselect":
				if !p.away {
					p.take(rt, p.c.ok("SELECT INBOX (QRESYNC (%d %d))", p.uidValidity, p.highest))
					p.watch(rt)
				}
			default:
				if p.away {
					p.connect(rt)
				}
				p.act(rt, action)
			}
		}
		for _, p := range copies {
			p.settle(rt, folder)
		}
	})
}

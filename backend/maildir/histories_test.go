package maildir

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
)

// Which histories TestDovecotHistories has: other ones from another seed on. They are the same each time.
var (
	historySeed = flag.Uint64("histories.seed", 1, "the first of the random histories shared with Dovecot")
	histories   = flag.Uint64("histories", 5, "how many of them there are")
)

// chronicle is what three do to one tree by turns, at random: we, Dovecot, and somebody with a shell.
type chronicle struct {
	*rand.Rand
	s    *setup
	d    *dovecot
	n    int
	tale []string // what was done
}

func (h *chronicle) of(words ...string) string { return words[h.IntN(len(words))] }

func (h *chronicle) tell(format string, a ...any) { h.tale = append(h.tale, fmt.Sprintf(format, a...)) }

func (h *chronicle) folder() string { return h.of(h.d.folders()...) }

// another is a folder other than this one, or "" if there is none.
func (h *chronicle) another(than string) string {
	return h.of(slices.DeleteFunc(append(h.d.folders(), ""), func(f string) bool { return f == than })...)
}

// free is a name that no folder has.
func (h *chronicle) free() string {
	var free []string
	for _, name := range []string{"A", "A/b", "A/b/c", "Ü", "Ü/x & y", "D"} {
		if !slices.Contains(h.d.folders(), name) {
			free = append(free, name)
		}
	}
	return h.of(append(free, "")...)
}

// letter is a message, the next one.
func (h *chronicle) letter() string {
	h.n++
	return fmt.Sprintf("Subject: %d\r\nDate: Mon, 3 Nov 2025 10:00:00 +0000\r\n\r\nbody %s\r\n", h.n, strings.Repeat("x", h.IntN(50)))
}

// weAct is what we do, on the open mailbox.
func (h *chronicle) weAct() {
	s, t := h.s, h.s.t
	name := h.folder()
	f := s.folder(name)
	var uids []mailbox.UID
	for _, m := range s.snapshot(f).Messages.All() {
		if h.IntN(3) == 0 {
			uids = append(uids, m.UID)
		}
	}
	what := h.of("deliver", "append", "flags", "flags", "move", "copy", "expunge", "create", "delete", "rename", "subscribe")
	switch what {
	case "deliver":
		folder := name
		if name == "INBOX" {
			folder = ""
		}
		s.deliver(fmt.Sprint(h.n+1), h.letter(), folder)
	case "append":
		m := s.stage(h.letter())
		_, err := appendOne(s.b, name, m, mailbox.Flags{System: mailbox.System(h.IntN(32)), Keywords: []string{h.of("$Work", "b")}}, time.Unix(1e9+int64(h.n), 0))
		must(t, err)
		m.Discard()
	case "flags":
		op := []mailbox.FlagOp{mailbox.FlagsAdd, mailbox.FlagsRemove, mailbox.FlagsSet}[h.IntN(3)]
		_, err := f.SetFlags(uids, mailbox.FlagChange{Op: op, Flags: mailbox.Flags{System: mailbox.System(h.IntN(32)), Keywords: []string{h.of("$Junk", "b", "c")}}})
		must(t, err)
	case "move", "copy":
		to := h.another(name)
		if to == "" {
			return
		}
		do := f.Copy
		if what == "move" {
			do = f.Move
		}
		_, err := do(uids, to)
		must(t, err)
		what += " to " + to
	case "expunge":
		_, err := f.Expunge(uids)
		must(t, err)
	case "create":
		if name = h.free(); name == "" {
			return
		}
		must(t, s.b.CreateFolder(name, ""))
	case "delete":
		if name == "INBOX" {
			return
		}
		must(t, s.b.DeleteFolder(name))
	case "rename":
		to := h.free()
		if name == "INBOX" || to == "" || strings.HasPrefix(to, name+"/") {
			return
		}
		must(t, s.b.RenameFolder(name, to))
		what += " to " + to
	case "subscribe":
		must(t, s.b.Subscribe(name, h.IntN(2) == 0))
	}
	h.tell("we %s in %s: %d", what, name, uids)
}

// dovecotActs is what Dovecot does, on the closed tree.
func (h *chronicle) dovecotActs() {
	d := h.d
	name := h.folder()
	query := []string{"mailbox", name, "uid", fmt.Sprintf("%d:%d", 1+h.IntN(4), 1+h.IntN(12))}
	args := []string{h.of("save", "flags", "flags", "move", "copy", "expunge", "create", "delete", "rename", "subscribe")}
	letter := ""
	switch args[0] {
	case "save":
		letter = strings.ReplaceAll(h.letter(), "\r\n", "\n")
		args = append(args, "-m", name)
	case "flags":
		args = append(args, h.of("add", "remove", "replace"), h.of(`\Seen`, `\Flagged $Junk`, `\Deleted b`, `\Draft \Answered`, "e"))
		args = append(args, query...)
	case "move", "copy":
		to := h.another(name)
		if to == "" {
			return
		}
		args = append(append(args, to), query...)
	case "expunge":
		args = append(args, query...)
	case "create":
		if name = h.free(); name == "" {
			return
		}
		args = []string{"mailbox", "create", name}
	case "delete":
		if name == "INBOX" {
			return
		}
		args = []string{"mailbox", "delete", name}
	case "rename":
		to := h.free()
		if name == "INBOX" || to == "" || strings.HasPrefix(to, name+"/") {
			return
		}
		args = []string{"mailbox", "rename", name, to}
	case "subscribe":
		args = []string{"mailbox", h.of("subscribe", "unsubscribe"), name}
	}
	h.tell("dovecot: %q", args)
	d.adm(letter, args...)
}

// shellActs is what others do to the files of the closed tree.
func (h *chronicle) shellActs() {
	t := h.s.t
	name := h.folder()
	rel, err := directoryOf(name)
	must(t, err)
	dir := filepath.Join(h.s.path(), rel)
	all, err := filepath.Glob(filepath.Join(dir, "cur", "*"))
	must(t, err)
	what := h.of("deliver", "flag", "flag", "unlink", "forget")
	if what == "forget" { // what can be made anew
		for _, pattern := range []string{"waypost-index*", "waypost-state*", "dovecot.index*"} {
			if h.IntN(2) == 0 {
				continue
			}
			all, err := filepath.Glob(filepath.Join(dir, pattern))
			must(t, err)
			for _, file := range all {
				must(t, os.Remove(file))
				h.tell("shell: remove %s", file)
			}
		}
		return
	}
	if what != "deliver" && len(all) == 0 {
		return
	}
	if what == "deliver" {
		h.n++
		file := filepath.Join(dir, h.of("new", "cur"), fmt.Sprintf("%d.M%dP1.other", 1_700_000_000+h.n, h.n))
		must(t, os.WriteFile(file, []byte(strings.ReplaceAll(h.letter(), "\r\n", "\n")), 0o600))
		at := time.Unix(1_700_000_000+int64(h.n), 0)
		must(t, os.Chtimes(file, at, at))
		h.tell("shell: %s", file)
		return
	}
	file := h.of(all...)
	if what == "unlink" {
		must(t, os.Remove(file))
	} else {
		base, _, _ := strings.Cut(filepath.Base(file), ":")
		must(t, os.Rename(file, filepath.Join(dir, "cur", base+":2,"+h.of("", "S", "FS", "RS", "DT"))))
	}
	h.tell("shell: %s %s", what, file)
}

// TestDovecotHistories: whatever we, Dovecot and others have done to a tree by turns, we and Dovecot see
// the same in it, UIDs and UIDVALIDITY included, and the quota is exact.
func TestDovecotHistories(t *testing.T) {
	for seed := *historySeed; seed < *historySeed+*histories; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSetup(t, nil)
			h := &chronicle{Rand: rand.New(rand.NewPCG(seed, 1)), s: s, d: newDovecot(s)}
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(h.tale, "\n"))
				}
			}()
			for range 6 {
				for range 1 + h.IntN(6) {
					h.weAct()
				}
				s.quotaIsExact()
				h.tell("we have")
				ours := s.seen()
				s.b.Close()
				must(t, s.a.Close())
				sameList(t, "Dovecot sees", h.d.seen(), ours...)
				for range 1 + h.IntN(5) {
					h.dovecotActs()
				}
				for range h.IntN(4) {
					h.shellActs()
				}
				theirs := h.d.seen()
				h.tell("dovecot has")
				if err := os.Remove(s.path(quotaName)); err != nil && !os.IsNotExist(err) { // Dovecot keeps no log without its plugin
					t.Fatal(err)
				}
				s.open()
				sameList(t, "we see", s.seen(), theirs...)
				if t.Failed() {
					return
				}
			}
		})
	}
}

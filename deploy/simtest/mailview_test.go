package simtest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"waypost/backend/mailbox"
)

// told is a message as a client was told of it.
type told struct {
	uid   uint32 // 0: not yet
	flags string
	known bool // its flags
}

// mailView is a folder as a client sees it, by untagged responses alone.
type mailView struct{ all []told }

func (v *mailView) String() string {
	var text strings.Builder
	for _, m := range v.all {
		fmt.Fprintf(&text, "%d(%s) ", m.uid, m.flags)
	}
	return text.String()
}

// take brings the view up to date by an untagged response.
func (c *mailClient) take(line string) error {
	words := strings.Fields(line)
	if strings.HasPrefix(line, "* BYE") {
		c.bye = line
		return nil
	}
	if len(words) < 3 || c.view == nil {
		return nil
	}
	n, err := strconv.Atoi(words[1])
	if err != nil {
		return nil // not of a message
	}
	v := c.view
	switch words[2] {
	case "EXISTS":
		if n < len(v.all) {
			return fmt.Errorf("I4: %q, but there were %d", line, len(v.all))
		}
		v.all = append(v.all, make([]told, n-len(v.all))...)
	case "EXPUNGE":
		if n < 1 || n > len(v.all) {
			return fmt.Errorf("I4: %q of %d", line, len(v.all))
		}
		if uid := v.all[n-1].uid; uid != 0 && !c.g.gone[mailbox.UID(uid)] {
			return fmt.Errorf("I4: %q: nobody expunged UID %d", line, uid)
		}
		v.all = slices.Delete(v.all, n-1, n)
	case "FETCH":
		if n < 1 || n > len(v.all) {
			return fmt.Errorf("I4: %q of %d", line, len(v.all))
		}
		return v.fetched(n, line)
	}
	return nil
}

var (
	uidItem   = regexp.MustCompile(`[( ]UID (\d+)`)
	flagsItem = regexp.MustCompile(`[( ]FLAGS \(([^)]*)\)`)
)

func (v *mailView) fetched(n int, line string) error {
	m := &v.all[n-1]
	if u := uidItem.FindStringSubmatch(line); u != nil {
		uid, err := strconv.ParseUint(u[1], 10, 32)
		if err != nil {
			return err
		}
		if m.uid != 0 && m.uid != uint32(uid) {
			return fmt.Errorf("I4: message %d was UID %d, and is said to be %d", n, m.uid, uid)
		}
		m.uid = uint32(uid)
		for i, x := range v.all {
			if x.uid != 0 && (i < n-1 && x.uid >= m.uid || i > n-1 && x.uid <= m.uid) {
				return fmt.Errorf("I4: message %d is UID %d, and message %d is UID %d", n, m.uid, i+1, x.uid)
			}
		}
	}
	if f := flagsItem.FindStringSubmatch(line); f != nil {
		all := slices.DeleteFunc(strings.Fields(f[1]), func(s string) bool { return s == `\Recent` })
		slices.Sort(all)
		m.flags, m.known = strings.Join(all, " "), true
	}
	return nil
}

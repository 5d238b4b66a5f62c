package clustertest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	statusMessages = regexp.MustCompile(`MESSAGES (\d+)`)
	listed         = regexp.MustCompile(`^\* LIST \(([^)]*)\) "/" (.*)$`)
	fetched        = regexp.MustCompile(`^\* \d+ FETCH \((.*)\)$`)
	flagList       = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
	dated          = regexp.MustCompile(`INTERNALDATE "([^"]*)"`)
	statusItem     = regexp.MustCompile(`(MESSAGES|UIDNEXT|UIDVALIDITY|UNSEEN) (\d+)`)
)

// viewIMAP is all that a client can go by: folders, subscriptions, UIDs, flags,
// keywords, sizes, dates.
func viewIMAP(k *talk) (view []string) {
	k.t.Helper()
	var folders []string
	for _, line := range k.ok(`LIST "" "*"`) {
		name, attributes, ok := folderLine(line)
		if !ok {
			continue
		}
		view = append(view, "folder "+name+" "+attributes)
		if !strings.Contains(attributes, "noselect") {
			folders = append(folders, name)
		}
	}
	for _, line := range k.ok(`LIST (SUBSCRIBED) "" "*"`) {
		if name, _, ok := folderLine(line); ok {
			view = append(view, "subscribed "+name)
		}
	}
	for _, name := range folders {
		for _, line := range k.ok("STATUS %s (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)", name) {
			items := statusItem.FindAllString(line, -1)
			slices.Sort(items)
			view = append(view, "status "+name+" "+strings.Join(items, " "))
		}
		k.ok("EXAMINE %s", name)
		if k.count(strings.Trim(name, `"`)) > 0 {
			view = append(view, messageLines(k, name)...)
		}
	}
	slices.Sort(view)
	return view
}

// folderLine gives a name, quoted, and whether it has children and messages.
func folderLine(line string) (name, attributes string, ok bool) {
	m := listed.FindStringSubmatch(line)
	if m == nil {
		return "", "", false
	}
	var have []string
	for a := range strings.FieldsSeq(strings.ToLower(m[1])) {
		switch a {
		case `\haschildren`, `\noselect`:
			have = append(have, a)
		case `\nonexistent`:
			have = append(have, `\noselect`)
		}
	}
	slices.Sort(have)
	name = m[2]
	if !strings.HasPrefix(name, `"`) {
		name = `"` + name + `"`
	}
	return name, strings.Join(slices.Compact(have), " "), true
}

func messageLines(k *talk, folder string) (lines []string) {
	k.t.Helper()
	for _, line := range k.ok("UID FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE)") {
		m := fetched.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		flags := strings.Fields(flagList.FindStringSubmatch(m[1])[1])
		flags = slices.DeleteFunc(flags, func(f string) bool {
			// Dovecot has a name also for a letter that stands for no keyword.
			return f == `\Recent` || strings.HasPrefix(f, "unknown-")
		})
		slices.Sort(flags)
		date, err := time.Parse("_2-Jan-2006 15:04:05 -0700", dated.FindStringSubmatch(m[1])[1])
		if err != nil {
			k.t.Error(err)
		}
		lines = append(lines, fmt.Sprintf("message %s UID %s size %s flags %v date %d", folder,
			word(m[1], "UID "), word(m[1], "RFC822.SIZE "), flags, date.Unix()))
	}
	return lines
}

func word(text, after string) string {
	_, text, _ = strings.Cut(text, after)
	text, _, _ = strings.Cut(text, " ")
	return text
}

// viewPOP3 is what a POP3 client goes by.
func viewPOP3(k *talk) (view []string) {
	k.t.Helper()
	var total string
	if w := strings.Fields(k.ok("STAT")[0]); len(w) >= 3 {
		total = w[1] + " " + w[2]
	}
	view = []string{"POP3 " + total}
	for _, line := range k.list("UIDL") {
		view = append(view, "POP3 id "+line)
	}
	for _, line := range k.list("LIST") {
		view = append(view, "POP3 size "+line)
	}
	return view
}

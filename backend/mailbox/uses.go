package mailbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Uses are the names of folders that tell a special use where nobody has said one: for each
// use the names it may have, the likeliest first. Many clients make such folders and never
// say what for, and Dovecot knows the uses of folders from its configuration only.
type Uses map[string][]string

// UsualUses are what clients name these folders.
func UsualUses() Uses {
	return Uses{
		`\Archive`: {"Archive", "Archives"},
		`\Drafts`:  {"Drafts"},
		`\Junk`:    {"Junk", "Spam", "Junk E-mail"},
		`\Sent`:    {"Sent", "Sent Messages", "Sent Items"},
		`\Trash`:   {"Trash", "Deleted Messages", "Deleted Items"},
	}
}

// ParseUses reads a configuration, in which uses may be written without their backslash.
// ErrUse, ErrBadName.
func ParseUses(config map[string][]string) (Uses, error) {
	u := Uses{}
	for text, names := range config {
		use, err := ParseUse(`\` + text)
		if err != nil {
			if use, err = ParseUse(text); err != nil {
				return nil, err
			}
		}
		if slices.ContainsFunc(names, func(name string) bool { return name == "" || strings.EqualFold(name, Inbox) }) {
			return nil, fmt.Errorf("%s: %q is no folder's name that could tell it: %w", text, names, ErrBadName)
		}
		u[use] = append(u[use], names...)
	}
	return u, nil
}

// Mark gives the folders of a listing the uses that nobody has: a use at most to one folder,
// and one at most to each.
func (u Uses) Mark(list []FolderInfo) {
	taken := map[string]bool{}
	at := make(map[string]int, len(list))
	for i, info := range list {
		taken[info.SpecialUse] = true
		if info.SpecialUse == "" && !info.NoSelect {
			at[info.Name] = i
		}
	}
	for _, use := range slices.Sorted(maps.Keys(u)) {
		if taken[use] {
			continue
		}
		for _, name := range u[use] {
			if i, ok := at[name]; ok && list[i].SpecialUse == "" {
				list[i].SpecialUse = use
				break
			}
		}
	}
}

package maildir

import (
	"fmt"
	"strconv"
	"strings"

	"waypost/backend/mailbox"
)

// Extra is what one folder may hold beyond the user's quota, such as Trash: who is
// over quota must be able to delete by copying there.
type Extra struct {
	// Percent of the quota, and so many bytes more.
	Percent int64
	Bytes   int64
}

// ParseExtra reads "+10%" or "+50000000" (bytes).
func ParseExtra(text string) (Extra, error) {
	number, ok := strings.CutPrefix(text, "+")
	number, percent := strings.CutSuffix(number, "%")
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case !ok || err != nil || n < 0 || percent && n > 1000:
		return Extra{}, fmt.Errorf("quota rule %q: want +N%% or +N bytes", text)
	case percent:
		return Extra{Percent: n}, nil
	}
	return Extra{Bytes: n}, nil
}

// limitFor is the user's limit for what goes into a folder.
func (a *Account) limitFor(folder string) mailbox.Limit {
	limit := a.o.Limit()
	extra, is := a.o.Extra[folder]
	if !is {
		return limit
	}
	if limit.Bytes > 0 {
		limit.Bytes += limit.Bytes/100*extra.Percent + extra.Bytes
	}
	limit.Messages += limit.Messages * extra.Percent / 100
	return limit
}

// warn tells of the highest threshold that a change has crossed upwards.
func (a *Account) warn(before, after mailbox.Usage) {
	limit := a.o.Limit()
	share := func(u mailbox.Usage) (percent int64) {
		if limit.Bytes > 0 {
			percent = u.Bytes * 100 / limit.Bytes
		}
		if limit.Messages > 0 {
			percent = max(percent, u.Messages*100/limit.Messages)
		}
		return percent
	}
	was, is := share(before), share(after)
	crossed := 0
	for _, t := range a.o.Warnings {
		if was < int64(t) && is >= int64(t) {
			crossed = max(crossed, t)
		}
	}
	if crossed > 0 {
		a.o.Warn(crossed, after, limit)
	}
}

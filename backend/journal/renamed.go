package journal

// Renamed says that files were renamed without a record: for each path in names that
// a record of the user has touched, and no checkpoint has passed, Flush syncs what it
// stands for there. What nobody has touched is as durable as it was. The caller holds
// the user's lock; names is used up. It looks at the latest records first, and no
// further than it must.
func (j *Journal) Renamed(user string, names map[string]string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.users[user]
	if c == nil {
		return
	}
	for t := c.last; t != nil && len(names) > 0; t = t.prev {
		for i, path := range t.touched {
			if to, is := names[path]; is {
				t.touched[i] = to
				delete(names, path) // a record before is passed before
			}
		}
	}
}

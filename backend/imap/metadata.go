package imap

import (
	"slices"
	"strconv"
	"strings"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// depth is GETMETADATA's DEPTH: how far below an entry others count as named by it.
type depth uint8

const (
	depthZero depth = iota
	depthOne
	depthInfinity
)

// metadataOptions are GETMETADATA's (RFC 5464, Section 4.2). max is MAXSIZE, or −1.
type metadataOptions struct {
	depth depth
	max   int64
	// longest is the largest value that was over max.
	longest int64
}

// getMetadata implements GETMETADATA. Options stand before the mailbox, or, as many clients
// send them, behind it.
func (s *session) getMetadata(c *cmd) error {
	o := metadataOptions{max: -1}
	if err := c.SP(); err != nil {
		return err
	}
	if c.Peek() == '(' {
		if err := o.parse(c); err != nil {
			return err
		}
		if err := c.SP(); err != nil {
			return err
		}
	}
	name, err := c.Mailbox()
	if err != nil {
		return err
	}
	if err := c.SP(); err != nil {
		return err
	}
	if c.Peek() == '(' && o.is(c) {
		if err := o.parse(c); err != nil {
			return err
		}
		if err := c.SP(); err != nil {
			return err
		}
	}
	entries, err := entryNames(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	name = folderName(name)
	if name != "" {
		if err := s.mayMetadata(name); err != nil {
			return err
		}
	}
	if err := s.tellMetadata(name, entries, &o); err != nil {
		return s.fail(err)
	}
	if o.longest > 0 {
		c.code = "METADATA LONGENTRIES " + strconv.FormatInt(o.longest, 10)
	}
	return s.out.Err()
}

// is reports that the list ahead has options, which entries, beginning with a slash, are not.
func (o *metadataOptions) is(c *cmd) bool {
	rest := strings.ToUpper(c.Ahead(10))
	return strings.HasPrefix(rest, "(DEPTH") || strings.HasPrefix(rest, "(MAXSIZE")
}

func (o *metadataOptions) parse(c *cmd) error {
	return c.List(false, func() error {
		name, err := c.Name()
		if err != nil {
			return err
		}
		if err := c.SP(); err != nil {
			return err
		}
		switch name {
		case "MAXSIZE":
			n, err := c.Number()
			o.max = int64(n)
			return err
		case "DEPTH":
			what, err := c.Name()
			at := slices.Index([]string{"0", "1", "INFINITY"}, what)
			if err == nil && at < 0 {
				err = bad("unknown depth")
			}
			o.depth = depth(max(at, 0))
			return err
		}
		return bad("unknown option")
	})
}

// entryNames takes one entry or a list of them, in lower case.
func entryNames(c *cmd) ([]string, error) {
	var all []string
	err := c.One(func() error {
		e, err := entryName(c, true)
		if err == nil && len(all) == mailbox.MaxMetadataEntries {
			err = no("LIMIT", "too many entries")
		}
		all = append(all, e)
		return err
	})
	return all, err
}

// entryName takes an entry's name (RFC 5464, Section 3.2); top: one of the two above all others
// will do, as it does where those below are asked for.
func entryName(c *cmd, top bool) (string, error) {
	e, err := c.AString()
	if err != nil {
		return "", err
	}
	e = strings.ToLower(e)
	switch {
	case top && (e == "/private" || e == "/shared"):
	case !strings.HasPrefix(e, "/private/") && !strings.HasPrefix(e, "/shared/"),
		strings.Contains(e, "//"), strings.HasSuffix(e, "/"), strings.ContainsAny(e, "*%"):
		return "", bad("not an entry's name")
	}
	return e, nil
}

// mayMetadata checks the right to read a folder's entries (RFC 5464, Section 3.3).
func (s *session) mayMetadata(name string) error {
	rights, err := s.box.Rights(name)
	if err != nil {
		return s.fail(err)
	}
	if !rights.Has('r') && !rights.Has('l') {
		return no("NOPERM", "permission denied")
	}
	return nil
}

// tellMetadata writes the entries that there are, as one response.
func (s *session) tellMetadata(name string, entries []string, o *metadataOptions) error {
	all, err := s.box.Metadata(name)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(all))
	for e := range all {
		if slices.ContainsFunc(entries, func(asked string) bool { return o.covers(asked, e) }) {
			names = append(names, e)
		}
	}
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(e string) bool {
		long := o.max >= 0 && int64(len(all[e])) > o.max
		if long {
			o.longest = max(o.longest, int64(len(all[e])))
		}
		return long
	})
	if len(names) == 0 && o.depth != depthZero {
		return nil
	}
	// An entry that is asked for by its name, and is not there, is NIL.
	for _, asked := range entries {
		if _, there := all[asked]; !there && !slices.Contains(names, asked) {
			names = append(names, asked)
		}
	}
	if len(names) == 0 {
		return nil
	}
	s.out.Raw("* METADATA ").Mailbox(name).SP().List(len(names), func(i int) {
		v, there := all[names[i]]
		s.out.AString(names[i]).SP()
		s.tellValue(v, there)
	}).CRLF()
	return nil
}

// tellValue writes a value, which may have any bytes.
func (s *session) tellValue(v string, there bool) {
	if strings.IndexByte(v, 0) >= 0 {
		s.out.LiteralHeader(int64(len(v)), true).Raw(v)
		return
	}
	s.out.NString(v, there)
}

// covers reports that an entry is meant by one that was asked for.
func (o *metadataOptions) covers(asked, entry string) bool {
	rest, ok := strings.CutPrefix(entry, asked)
	if !ok || rest == "" {
		return ok
	}
	return rest[0] == '/' && (o.depth == depthInfinity || o.depth == depthOne && !strings.Contains(rest[1:], "/"))
}

// setMetadata implements SETMETADATA (RFC 5464, Section 4.3).
func (s *session) setMetadata(c *cmd) error {
	name, err := s.mailboxArg(c)
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	change := make(map[string]*string)
	entry := ""
	err = c.List(false, func() error {
		if entry == "" {
			var err error
			entry, err = entryName(c, false)
			return err
		}
		v, there, err := c.NBytes(mailbox.MaxMetadataValue)
		if err != nil {
			return err
		}
		change[entry] = nil
		if there {
			change[entry] = &v
		}
		entry = ""
		return nil
	})
	if err == nil && entry != "" {
		err = syntax.Syntax("an entry without a value")
	}
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	name = folderName(name)
	if name != "" {
		if err := s.mayFolder(name, 'w'); err != nil {
			return err
		}
	}
	if err := s.box.SetMetadata(name, change); err != nil {
		return s.fail(err)
	}
	s.notify.annotated(name, change)
	return nil
}

package imap

import (
	"errors"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// catenation reads the parts of a CATENATE one after the other (RFC 4469): it takes the command
// on as it goes. It stands behind the opening parenthesis at first, and behind the closing one
// at its end.
type catenation struct {
	a     *appending
	begun bool
	part  io.Reader
	close func() error
	// open closes the message that a part is of, while it is read.
	open func() error
	err  error
}

// end closes what is open when not all was read. That it was only read leaves nothing to lose.
func (k *catenation) end() {
	if k.open != nil {
		_ = k.open()
	}
}

// Read implements io.Reader.
func (k *catenation) Read(p []byte) (int, error) {
	for k.err == nil {
		if k.part == nil {
			k.err = k.next()
			continue
		}
		n, err := k.part.Read(p)
		if err == io.EOF {
			err = k.close()
			k.part, k.open = nil, nil
		}
		if err != nil {
			k.err = err
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, k.err
}

// next begins a part; io.EOF behind the last one.
func (k *catenation) next() error {
	c := k.a.c
	if k.begun {
		if c.Take(')') {
			return io.EOF
		}
		if err := c.SP(); err != nil {
			return err
		}
	}
	k.begun = true
	kind, err := c.Name()
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	switch kind {
	case "TEXT":
		lit, err := c.Stream(k.a.s.srv.limits.AppendBytes, nil)
		if err != nil {
			return err
		}
		k.part, k.close = lit, lit.Close
		return nil
	case "URL":
		text, err := c.AString()
		if err != nil {
			return err
		}
		k.part, k.close, err = k.a.s.openURL(text)
		k.open = k.close
		return err
	}
	return bad("expected TEXT or URL")
}

// messageURL is an IMAP URL relative to the server (RFC 5092, Section 7): a part of a message.
type messageURL struct {
	mailbox     string // "": the selected one
	uidValidity uint32 // 0: not said
	uid         mailbox.UID
	section     string
	partial     bool
	from, size  int64 // size −1: to the end
}

var errURL = errors.New("not a URL of a message here")

// parseURL reads "/INBOX;UIDVALIDITY=785799047/;UID=113330/;SECTION=1.5.9", with or without what
// is before ";UID=".
func parseURL(text string) (u messageURL, err error) {
	u.size = -1
	for _, piece := range strings.Split(strings.TrimPrefix(text, "/"), "/") {
		key, value, ok := strings.Cut(strings.TrimPrefix(piece, ";"), "=")
		isParam := strings.HasPrefix(piece, ";") && ok
		if isParam {
			value, err = url.PathUnescape(value)
		}
		switch key = strings.ToUpper(key); {
		case err != nil:
		case !isParam && u.uid == 0:
			err = u.addMailbox(piece)
		case isParam && key == "UID" && u.uid == 0:
			var n uint64
			n, err = strconv.ParseUint(value, 10, 32)
			u.uid = mailbox.UID(n)
		case isParam && key == "SECTION":
			u.section = value
		case isParam && key == "PARTIAL":
			err = u.window(value)
		default:
			err = errURL
		}
		if err != nil {
			return u, errURL
		}
	}
	if u.uid == 0 {
		return u, errURL
	}
	return u, nil
}

func (u *messageURL) addMailbox(piece string) error {
	piece, validity, ok := strings.Cut(piece, ";")
	if ok {
		v, found := strings.CutPrefix(strings.ToUpper(validity), "UIDVALIDITY=")
		n, err := strconv.ParseUint(v, 10, 32)
		if !found || err != nil {
			return errURL
		}
		u.uidValidity = uint32(n)
	}
	piece, err := url.PathUnescape(piece)
	if err != nil || piece == "" {
		return errURL
	}
	if u.mailbox != "" {
		u.mailbox += string(mailbox.Separator)
	}
	u.mailbox += piece
	return nil
}

func (u *messageURL) window(text string) error {
	from, size, limited := strings.Cut(text, ".")
	var err error
	u.partial = true
	if u.from, err = strconv.ParseInt(from, 10, 63); err == nil && limited {
		u.size, err = strconv.ParseInt(size, 10, 63)
	}
	if err != nil || u.from < 0 || limited && u.size < 0 {
		return errURL
	}
	return nil
}

// openURL opens what a URL of CATENATE names.
func (s *session) openURL(text string) (io.Reader, func() error, error) {
	r, closer, err := s.resolveURL(text)
	switch {
	case err == nil:
		return r, closer, nil
	case errors.Is(err, errURL), errors.Is(err, mailbox.ErrNoFolder), errors.Is(err, mailbox.ErrNoMessage),
		errors.Is(err, mailbox.ErrRenumbered):
		return nil, nil, no("BADURL "+strconv.Quote(clean(text)), "no such message or part")
	}
	return nil, nil, s.fail(err)
}

// clean makes a client's text fit for a quoted string.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, text[:min(len(text), 200)])
}

func (s *session) resolveURL(text string) (io.Reader, func() error, error) {
	u, err := parseURL(text)
	if err != nil {
		return nil, nil, err
	}
	folder, err := s.urlFolder(u)
	if err != nil {
		return nil, nil, err
	}
	body, err := folder.Open(u.uid)
	if err != nil {
		return nil, nil, err
	}
	part := mime.Range{Start: 0, End: body.WireSize()}
	if u.section != "" {
		if part, err = urlSection(folder, u); err != nil {
			return nil, nil, errors.Join(err, body.Close())
		}
	}
	if u.partial {
		part.Start = min(part.Start+u.from, part.End)
		if u.size >= 0 {
			part.End = min(part.End, part.Start+u.size)
		}
	}
	if _, err := body.Seek(part.Start, io.SeekStart); err != nil {
		return nil, nil, errors.Join(err, body.Close())
	}
	return io.LimitReader(body, part.Len()), body.Close, nil
}

// urlFolder opens a URL's folder: the selected one, if it names none.
func (s *session) urlFolder(u messageURL) (mailbox.Folder, error) {
	if u.mailbox == "" {
		if s.view == nil || s.view.dead {
			return nil, errURL
		}
		return s.view.folder, nil
	}
	name := u.mailbox
	if s.p.Naming != nil {
		name = s.p.Naming(name)
	}
	name = folderName(name)
	rights, err := s.box.Rights(name)
	if err == nil && !rights.Has('r') {
		err = errURL
	}
	if err != nil {
		return nil, err
	}
	folder, err := s.box.Folder(name)
	if err != nil || u.uidValidity == 0 {
		return folder, err
	}
	st, err := folder.Status()
	if err == nil && st.UIDValidity != u.uidValidity {
		err = errURL
	}
	return folder, err
}

// urlSection finds a section (RFC 5092, Section 11: isection).
func urlSection(folder mailbox.Folder, u messageURL) (mime.Range, error) {
	meta, err := folder.Meta(u.uid)
	if err != nil {
		return mime.Range{}, err
	}
	var path []int
	spec := imap.PartSpecifierNone
	for _, piece := range strings.Split(u.section, ".") {
		n, err := strconv.Atoi(piece)
		word := imap.PartSpecifier(strings.ToUpper(piece))
		switch {
		case spec != imap.PartSpecifierNone:
			return mime.Range{}, errURL
		case err == nil && n > 0:
			path = append(path, n)
		case word == imap.PartSpecifierHeader, word == imap.PartSpecifierText, word == imap.PartSpecifierMIME:
			spec = word
		default:
			return mime.Range{}, errURL
		}
	}
	r, ok := meta.Root.Section(path, spec)
	if !ok {
		return r, errURL
	}
	return r, nil
}

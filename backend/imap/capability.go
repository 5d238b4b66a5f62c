package imap

import (
	"runtime"
	"slices"
	"strconv"
	"strings"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// defaultSearches is Limits.Searches's.
func defaultSearches() int { return 2 * runtime.GOMAXPROCS(0) }

// always are the capabilities of a session that is logged in:
//
//	IMAP4rev1 (RFC 3501), IMAP4rev2 (9051), ACL, RIGHTS= (4314), BINARY (3516), CATENATE (4469),
//	CHILDREN (3348), CONDSTORE, QRESYNC (7162), CONTEXT=SEARCH (5267), CREATE-SPECIAL-USE,
//	SPECIAL-USE (6154), ENABLE (5161), ESEARCH (4731), ESORT (5267), I18NLEVEL=1 (5255), ID (2971),
//	IDLE (2177), INPROGRESS (9585), LIST-EXTENDED (5258), LIST-STATUS (5819), LITERAL+ (7888),
//	METADATA (5464), MOVE (6851), MULTIAPPEND (3502), NAMESPACE (2342), NOTIFY (5465), OBJECTID
//	(8474), PARTIAL (9394), PREVIEW (8970), QUOTA (9208), REPLACE (8508), SASL-IR (4959), SAVEDATE
//	(8514), SEARCHRES (5182), SORT, THREAD (5256), SORT=DISPLAY (5957), STATUS=SIZE (8438), UIDONLY
//	(9586), UIDPLUS (4315), UNSELECT (3691), URL-PARTIAL (5550), UTF8=ACCEPT (6855), WITHIN (5032)
const always = " IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE UNSELECT CHILDREN UIDPLUS MOVE" +
	" MULTIAPPEND CATENATE URL-PARTIAL REPLACE LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE" +
	" ESEARCH SEARCHRES CONTEXT=SEARCH PARTIAL WITHIN SORT SORT=DISPLAY ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS" +
	" CONDSTORE QRESYNC UIDONLY UTF8=ACCEPT OBJECTID BINARY PREVIEW SAVEDATE NOTIFY INPROGRESS I18NLEVEL=1" +
	" METADATA ACL RIGHTS=texk QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE"

// capabilities are the session's at this moment, each behind a space.
func (s *session) capabilities() string {
	if s.box == nil {
		caps := " IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE"
		if s.srv.opt.TLS != nil && !s.secure {
			caps += " STARTTLS"
		}
		if s.mayLogin() {
			return caps + " AUTH=PLAIN"
		}
		return caps + " LOGINDISABLED"
	}
	caps := always + " APPENDLIMIT=" + strconv.FormatInt(s.srv.limits.AppendBytes, 10)
	if _, ok := s.c.Conn.(compressor); ok && !s.deflate {
		caps += " COMPRESS=DEFLATE"
	}
	return caps
}

func (s *session) capability(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	s.out.Raw("* CAPABILITY").Raw(s.capabilities()).CRLF()
	return nil
}

// noop is NOOP and CHECK: news are told behind it.
func (s *session) noop(c *cmd) error { return c.End() }

func (s *session) logout(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	s.out.Raw("* BYE ").Raw(endLogout.bye()).CRLF()
	s.out.Raw(c.tag).Raw(" OK LOGOUT completed").CRLF()
	return errLogout
}

// id implements RFC 2971. What a client says of itself goes to the log, bounded.
func (s *session) id(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	said, err := idFields(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	s.log.Info("imap client", "id", said)
	s.out.Raw("* ID ")
	if s.srv.opt.Name == "" {
		s.out.Raw("NIL")
	} else {
		s.out.Raw(`("name" `).String(s.srv.opt.Name)
		if s.srv.opt.Version != "" {
			s.out.Raw(` "version" `).String(s.srv.opt.Version)
		}
		s.out.Byte(')')
	}
	s.out.CRLF()
	return nil
}

// idFields takes ID's list; at most 30 pairs (RFC 2971, Section 3.3).
func idFields(c *cmd) (string, error) {
	if c.TakeName("NIL") {
		return "", nil
	}
	var b strings.Builder
	key, n := "", 0
	err := c.List(true, func() error {
		v, _, err := c.NString()
		if n++; n > 60 {
			return syntax.Syntax("too many fields")
		}
		switch {
		case n%2 == 1:
			key = v
		case b.Len() < 512:
			b.WriteString(strconv.Quote(key[:min(len(key), 30)] + "=" + v[:min(len(v), 100)]))
		}
		return err
	})
	if err == nil && n%2 == 1 {
		err = syntax.Syntax("a field without a value")
	}
	return b.String(), err
}

// enable implements RFC 5161. What is not known, or cannot be enabled, is passed over.
func (s *session) enable(c *cmd) error {
	var names []string
	for c.More() {
		if err := c.SP(); err != nil {
			return err
		}
		name, err := c.Name()
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return syntax.Syntax("nothing to enable")
	}
	if slices.Contains(names, "UTF8=ACCEPT") && s.view != nil {
		// RFC 5161, Section 3.1: some clients send it late; the view does not depend on it.
		s.log.Debug("imap ENABLE in the selected state")
	}
	s.out.Raw("* ENABLED")
	uidOnly := s.enabled.uidOnly
	for _, name := range names {
		if s.enabled.set(name) {
			s.out.SP().Raw(name)
		}
	}
	s.out.CRLF()
	s.out.UTF8 = s.enabled.utf8 || s.enabled.rev2
	s.p.UTF8 = s.out.UTF8
	if s.enabled.uidOnly && !uidOnly && s.notify.fetches() {
		s.overflow() // what NOTIFY is to fetch was asked for in the other form
	}
	return nil
}

// set switches name on and reports whether it is something that was off.
func (e *enabled) set(name string) bool {
	was := *e
	switch name {
	case "CONDSTORE":
		e.condstore = true
	case "QRESYNC": // which has CONDSTORE in it (RFC 7162, Section 3.2.3)
		e.condstore, e.qresync = true, true
	case "UTF8=ACCEPT":
		e.utf8 = true
	case "IMAP4REV2":
		e.rev2 = true
	case "UIDONLY":
		e.uidOnly = true
	case "METADATA":
		e.metadata = true
	}
	return *e != was
}

// separator is the hierarchy separator of mailbox names, as clients have it.
func (s *session) separator() string { return string(s.srv.opt.Separator) }

// namespace implements RFC 2342.
func (s *session) namespace(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	s.out.Raw("* NAMESPACE")
	all := s.box.Namespaces()
	for _, kind := range []mailbox.NamespaceKind{mailbox.Personal, mailbox.OtherUsers, mailbox.Shared} {
		s.out.SP()
		n := 0
		for _, ns := range all {
			if ns.Kind != kind {
				continue
			}
			if n++; n == 1 {
				s.out.Byte('(')
			}
			s.out.Byte('(').Prefix(ns.Prefix).SP().String(s.separator()).Byte(')')
		}
		if n == 0 {
			s.out.Raw("NIL")
		} else {
			s.out.Byte(')')
		}
	}
	s.out.CRLF()
	return nil
}

// compressor is a connection that can deflate from here on (RFC 4978): it sends what was
// written before as it is.
type compressor interface{ Compress() error }

// compress implements RFC 4978.
func (s *session) compress(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	how, err := c.Name()
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	z, ok := s.c.Conn.(compressor)
	switch {
	case how != "DEFLATE":
		return bad("unknown compression")
	case s.deflate:
		return no("COMPRESSIONACTIVE", "compression is on already")
	case !ok:
		return no("CANNOT", "compression is not possible here")
	case len(s.c.in) > 0:
		// RFC 4978, Section 3: what follows the answer is compressed, so nothing may
		// come before it.
		return bad("nothing may follow COMPRESS before its answer")
	}
	s.ok(c)
	if err := s.out.Flush(); err != nil {
		return err
	}
	s.deflate = true
	if err := z.Compress(); err != nil {
		return err
	}
	c.done = true
	return nil
}
